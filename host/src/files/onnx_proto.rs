//! ONNX files: their names, and the messages of onnx.proto with the fields that the graph of a decoder needs.

use prost::{Message, Oneof};

/// Name of the file with the graph in an exported folder.
pub const MODEL_FILE: &str = "model.onnx";
/// Name of the file with the weights, if they are not in the graph's file.
pub const DATA_FILE: &str = "model.onnx.data";
/// Version of the operator set: the first whose reductions all take their axes as an input.
pub const OPSET_VERSION: i64 = 18;
/// Version of the file format: that of the first ONNX release with this operator set.
pub const IR_VERSION: i64 = 8;

/// A model file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The program that wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Its version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The computation.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Versions of the operator sets.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

/// An operator set.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for ONNX's own.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// Nodes in the order of computation, with the graph's constants, inputs and outputs.
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
    /// Inputs of the graph.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs of the graph.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// An operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of its input values.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of its output values.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Its own name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
}

/// An attribute of an operation; `i` is optional so that a zero is written, too.
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

/// A tensor, its values in this file or in another.
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
    /// [`EXTERNAL`] if the values are in another file.
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

/// A key and a value.
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
    /// Element type and shape.
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
    /// Chosen at run time; the same wherever the name occurs.
    #[prost(string, tag = "2")]
    Param(String),
}
