//! A policy as an ONNX graph that any runtime of this opset runs: tokens in padded rows in, logits out.
//!
//! | module | what |
//! |---|---|
//! | `graph` | a graph under construction |
//! | `decoder` | the decoder as a graph |
//! | `file` | the file, weights streamed |
//!
//! # Invariants
//!
//! - Weights keep the names and shapes of the checkpoint; a tied LM head is stored once.
//! - Inputs are `input_ids`, `attention_mask` (1 at tokens, 0 at padding) and `position_ids`, all int64 of any
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

/// Weights of more bytes stand in a file of their own: protobuf ends at 2 GiB.
pub const MAX_INLINE_BYTES: usize = 1_500_000_000;

/// Writes `model.onnx`, `config.json`, tokenizer, chat template and generation config into `folder`, and `model.onnx.data`
/// where the weights are more than `max_inline_bytes`, which is [`MAX_INLINE_BYTES`] outside tests.
///
/// # Numerics
///
/// float32 and float16 alike compute norms, rotary angles, masks and softmax in float32.
///
/// # Errors
///
/// [`ExportError`] when the model is neither float32 nor float16, has an adapter that is not merged, a file of `source`,
/// the model's folder, cannot be read, or the disk refuses.
pub fn write(model: &Model, source: &Path, folder: &Path, max_inline_bytes: usize) -> Result<(), ExportError> {
    if model.has_adapter() {
        return Err(ExportError::Adapter);
    }
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
