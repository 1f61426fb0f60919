//! Builder of a graph: nodes in order and small constants; weights are referred to by name.

use crate::files::onnx_proto::{
    ATTRIBUTE_INT, ATTRIBUTE_INTS, AttributeProto, DimensionProto, DimensionSize, ELEMENT_FLOAT, ELEMENT_INT64,
    GraphProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// Nodes and constants. A node has the name of the value that it computes.
#[derive(Debug, Default)]
pub(super) struct Graph {
    proto: GraphProto,
}

impl Graph {
    /// Adds an operation that computes the value `output`, and returns that name.
    pub(super) fn op(&mut self, operator: &str, inputs: &[&str], output: &str) -> String {
        self.op_with(operator, inputs, output, Vec::new())
    }

    /// Adds an operation with attributes.
    pub(super) fn op_with(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.proto.node.push(NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: operator.to_owned(),
            attribute,
        });
        output.to_owned()
    }

    /// Adds a constant of integers unless there is one of this name; `shape` is `[]` for a scalar.
    pub(super) fn integers(&mut self, name: &str, values: &[i64], shape: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, ELEMENT_INT64, shape, bytes)
    }

    /// Adds a constant of float32 values unless there is one of this name.
    pub(super) fn floats(&mut self, name: &str, values: &[f32], shape: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, ELEMENT_FLOAT, shape, bytes)
    }

    fn constant(&mut self, name: &str, data_type: i32, dims: &[i64], bytes: Vec<u8>) -> String {
        if self.proto.initializer.iter().all(|constant| constant.name != name) {
            self.proto.initializer.push(TensorProto {
                dims: dims.to_vec(),
                data_type,
                name: name.to_owned(),
                raw_data: Some(bytes),
                ..TensorProto::default()
            });
        }
        name.to_owned()
    }

    /// Declares an input.
    pub(super) fn input(&mut self, name: &str, element: i32, dims: &[Dim]) {
        self.proto.input.push(value_info(name, element, dims));
    }

    /// Declares an output.
    pub(super) fn output(&mut self, name: &str, element: i32, dims: &[Dim]) {
        self.proto.output.push(value_info(name, element, dims));
    }

    /// Names the graph and returns it, without weights.
    pub(super) fn finish(mut self, name: &str) -> GraphProto {
        self.proto.name = name.to_owned();
        self.proto
    }
}

/// The size of a dimension of an input or output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dim {
    /// Chosen by each run.
    Dynamic(&'static str),
    /// The same in all runs.
    Fixed(i64),
}

/// Returns an attribute of one integer.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: Some(value), ints: Vec::new(), r#type: ATTRIBUTE_INT }
}

/// Returns an attribute of several integers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i: None, ints: values.to_vec(), r#type: ATTRIBUTE_INTS }
}

fn value_info(name: &str, elem_type: i32, dims: &[Dim]) -> ValueInfoProto {
    let dim = dims.iter().map(|dim| DimensionProto {
        size: Some(match *dim {
            Dim::Dynamic(name) => DimensionSize::Param(name.to_owned()),
            Dim::Fixed(size) => DimensionSize::Value(size),
        }),
    });
    let shape = Some(TensorShapeProto { dim: dim.collect() });
    let r#type = Some(TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }) });
    ValueInfoProto { name: name.to_owned(), r#type }
}
