//! Exports a policy as an ONNX graph from padded rows of tokens to logits.
//!
//! | module | contents |
//! |---|---|
//! | `graph` | a graph under construction |
//! | `decoder` | the decoder as a graph |
//! | `file` | writes the file, streaming the weights |
//!
//! # Invariants
//!
//! - Weights have the names and shapes of the checkpoint; a tied LM head is stored once.
//! - Inputs are `input_ids`, `attention_mask` (1 at tokens, 0 at padding) and `position_ids`, int64 of any shape
//!   [batch, sequence]; the output is `logits`, float32 [batch, sequence, V].

mod decoder;
mod file;
mod graph;

use std::path::Path;

use tch::Kind;

use super::ExportError;
use crate::model::Model;
use decoder::Decoder;
use graph::Graph;

pub use crate::files::onnx_proto::{DATA_FILE, MODEL_FILE};

/// Weights of more bytes are written to a separate file: a protobuf message is limited to 2 GiB, and this leaves room
/// for the graph.
pub const MAX_INLINE_BYTES: usize = 1_500_000_000;

/// Writes `model.onnx`, `config.json`, tokenizer, chat template and generation config into `folder`. Weights of more
/// than `max_inline_bytes` ([`MAX_INLINE_BYTES`] outside tests) are written to `model.onnx.data`.
///
/// # Numerics
///
/// Norms, rotary angles, masks and softmax are computed in float32 in float16 graphs too.
///
/// # Errors
///
/// Returns an [`ExportError`] if the model is neither float32 nor float16 or has an adapter that is not merged or weights in 4 bits, a file
/// of `source`, the model's folder, cannot be read, or writing fails.
pub fn write(model: &Model, source: &Path, folder: &Path, max_inline_bytes: usize) -> Result<(), ExportError> {
    if model.has_adapter() {
        return Err(ExportError::Adapter);
    }
    model.check_not_quantized()?;
    let kind = match model.kind() {
        kind @ (Kind::Float | Kind::Half) => kind,
        Kind::BFloat16 => return Err(ExportError::Dtype { dtype: "bfloat16" }),
        _ => return Err(ExportError::Dtype { dtype: "float64" }),
    };
    model.write_companions(folder, source)?;
    let inv_freq = model.rotary_frequencies()?;
    let decoder = Decoder { config: model.config(), kind, inv_freq: &inv_freq, graph: Graph::default() };
    Ok(file::write(&decoder.build(), model.named_parameters(), folder, max_inline_bytes)?)
}
