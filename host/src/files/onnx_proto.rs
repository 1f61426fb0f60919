//! ONNX on disk: file names, and the messages of onnx.proto with the fields that a decoder's graph needs.

use prost::{Message, Oneof};

/// The graph, in an exported folder.
pub const MODEL_FILE: &str = "model.onnx";
/// The weights beside it, where they are many.
pub const DATA_FILE: &str = "model.onnx.data";
/// Version of the operators: the first whose reductions take their axes as an input.
pub const OPSET_VERSION: i64 = 18;
/// Version of the format that goes with it.
pub const IR_VERSION: i64 = 8;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Which program wrote it.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// What is computed.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Versions of the operators.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

/// A set of operators.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes in the order of computation, and the tensors they begin with.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// The operations.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// The graph's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Weights and constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What goes in.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What comes out.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// An operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of values.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values that it makes.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Its own name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// What is fixed of it.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
}

/// A fixed argument of an operation; numbers are optional, so that a zero is written too.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// An integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// Integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// One of the `ATTRIBUTE_*`.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

/// `AttributeProto.INT`
pub const ATTRIBUTE_INT: i32 = 2;
/// `AttributeProto.INTS`
pub const ATTRIBUTE_INTS: i32 = 7;

/// A tensor, its values inside or in another file.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// One of the `ELEMENT_*`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Its name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// The values, little-endian.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// `location`, `offset` and `length` of values in another file.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// [`EXTERNAL`] where they are.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// Field number of `raw_data`.
pub const RAW_DATA: u32 = 9;
/// Field number of a graph's `initializer`.
pub const INITIALIZER: u32 = 5;
/// Field number of a model's `graph`.
pub const GRAPH: u32 = 7;
/// `TensorProto.EXTERNAL`
pub const EXTERNAL: i32 = 1;
/// `TensorProto.FLOAT`
pub const ELEMENT_FLOAT: i32 = 1;
/// `TensorProto.INT64`
pub const ELEMENT_INT64: i32 = 7;
/// `TensorProto.BOOL`
pub const ELEMENT_BOOL: i32 = 9;
/// `TensorProto.FLOAT16`
pub const ELEMENT_FLOAT16: i32 = 10;
/// `TensorProto.BFLOAT16`
pub const ELEMENT_BFLOAT16: i32 = 16;

/// A pair of texts.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// An input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// The type of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// Elements and shape.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// `TypeProto.Tensor`
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// One of the `ELEMENT_*`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// The shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Its dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// `TensorShapeProto.Dimension`
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// A number or a name.
    #[prost(oneof = "DimensionSize", tags = "1, 2")]
    pub size: Option<DimensionSize>,
}

/// The size of a dimension.
#[derive(Clone, PartialEq, Oneof)]
pub enum DimensionSize {
    /// Fixed.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// Whatever a run gives; the same wherever the name is.
    #[prost(string, tag = "2")]
    Param(String),
}
