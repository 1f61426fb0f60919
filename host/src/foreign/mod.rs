//! Policies that this program does not compute itself: ONNX graphs and TorchScript modules.
//!
//! | module | what |
//! |---|---|
//! | [`runtime`] | finds and loads ONNX Runtime |
//! | [`onnx_file`] | what a file says of itself, before the runtime sees it |
//! | [`onnx`] | a graph, ready to run |
//! | [`torchscript`] | a TorchScript module, ready to run |
//! | [`log_probs`] | log-probs under any policy, the program's own models too |
//! | [`mod@compare`] | two policies over the same records |
//!
//! # Invariants
//!
//! - Such a policy has inputs `input_ids`, `attention_mask` and `position_ids`, [rows, tokens] int64, and gives logits
//!   [rows, tokens, V]. A row is one sequence and padding: packed layouts need a mask that it cannot be given.
//! - What does not fit is found when a policy is opened, not in the middle of a run.

pub mod runtime;
pub mod onnx_file;
pub mod onnx;
pub mod torchscript;
pub mod log_probs;
pub mod compare;

mod error;

pub use error::ForeignError;
pub use log_probs::{LogitsPolicy, Scorer};
pub use onnx::OnnxPolicy;
pub use torchscript::ScriptPolicy;
