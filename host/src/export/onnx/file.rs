//! Writes a model file, streaming its weights into it or, if they are too large for protobuf, into a second file.

use std::io::{self, Write};
use std::path::Path;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tch::{Kind, Tensor};

use crate::files::atomic::{self, WriteError};
use crate::files::onnx_proto::{
    DATA_FILE, ELEMENT_FLOAT, ELEMENT_FLOAT16, EXTERNAL, GRAPH, GraphProto, INITIALIZER, IR_VERSION, MODEL_FILE,
    ModelProto, OPSET_VERSION, OperatorSetIdProto, RAW_DATA, StringStringEntryProto, TensorProto,
};
use crate::files::safetensors::num_bytes;
use crate::files::tensor_bytes::for_each_block;

/// Weights in the second file begin at a multiple of the page size, so that readers can map them into memory.
const ALIGNMENT: usize = 4096;

/// A weight and its position.
struct Place<'a> {
    tensor: &'a Tensor,
    /// The encoded `TensorProto`, without values that are inside the model file.
    header: Vec<u8>,
    /// Padding before the values in the second file, in bytes.
    padding: usize,
}

/// Writes `model.onnx`, and `model.onnx.data` if the weights are more than `max_inline_bytes`.
pub(super) fn write<'t>(
    graph: &GraphProto,
    weights: impl Iterator<Item = (&'t String, &'t Tensor)>,
    folder: &Path,
    max_inline_bytes: usize,
) -> Result<(), WriteError> {
    let weights: Vec<_> = weights.collect();
    let total: usize = weights.iter().map(|(_, tensor)| num_bytes(tensor)).sum();
    let is_external = total > max_inline_bytes;
    let places = places(&weights, is_external);
    if is_external {
        atomic::write_with(&folder.join(DATA_FILE), |file| {
            for place in &places {
                file.write_all(&vec![0; place.padding])?;
                for_each_block(place.tensor, |bytes| file.write_all(bytes))?;
            }
            Ok(())
        })?;
    }
    atomic::write_with(&folder.join(MODEL_FILE), |file| write_model(file, graph, &places, is_external))
}

fn places<'t>(weights: &[(&'t String, &'t Tensor)], is_external: bool) -> Vec<Place<'t>> {
    let mut end = 0_usize;
    let place = |(name, tensor): &(&'t String, &'t Tensor)| {
        let mut proto = TensorProto {
            dims: tensor.size(),
            data_type: if tensor.kind() == Kind::Half { ELEMENT_FLOAT16 } else { ELEMENT_FLOAT },
            name: (*name).clone(),
            ..TensorProto::default()
        };
        let offset = end.next_multiple_of(ALIGNMENT);
        let padding = offset - end;
        if is_external {
            end = offset + num_bytes(tensor);
            proto.data_location = EXTERNAL;
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            proto.external_data = vec![
                entry("location", DATA_FILE.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", num_bytes(tensor).to_string()),
            ];
        }
        Place { tensor, header: proto.encode_to_vec(), padding }
    };
    weights.iter().map(place).collect()
}

/// Encodes the model field by field, so that only a block of a weight is in memory at a time.
fn write_model(file: &mut dyn Write, graph: &GraphProto, places: &[Place], is_external: bool) -> io::Result<()> {
    let model = ModelProto {
        ir_version: IR_VERSION,
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: None,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET_VERSION }],
    };
    let graph = graph.encode_to_vec();
    let tensor_len = |place: &Place| {
        let raw = num_bytes(place.tensor);
        place.header.len() + if is_external { 0 } else { delimited_len(raw) }
    };
    let graph_len = graph.len() + places.iter().map(|place| delimited_len(tensor_len(place))).sum::<usize>();
    file.write_all(&model.encode_to_vec())?;
    file.write_all(&delimiter(GRAPH, graph_len))?;
    file.write_all(&graph)?;
    for place in places {
        file.write_all(&delimiter(INITIALIZER, tensor_len(place)))?;
        file.write_all(&place.header)?;
        if !is_external {
            file.write_all(&delimiter(RAW_DATA, num_bytes(place.tensor)))?;
            for_each_block(place.tensor, |bytes| file.write_all(bytes))?;
        }
    }
    Ok(())
}

/// Returns key and length of a field that is bytes or a message; the field number must be below 16, so that the key is
/// one byte.
fn delimiter(field: u32, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(field, WireType::LengthDelimited, &mut bytes);
    encode_varint(len as u64, &mut bytes);
    bytes
}

fn delimited_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}
