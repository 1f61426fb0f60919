//! Log-probs under any policy: the program's own models, ONNX graphs and TorchScript modules.
//!
//! | module | what |
//! |---|---|
//! | [`batch_inputs`] | what model, log-probs and loss read of a batch |
//! | [`batches_by_length`] | samples in batches of similar length |
//! | [`scorer`] | log-probs of a batch |
//! | [`runtime`] | finds and loads ONNX Runtime |
//! | [`onnx_file`] | what a file says of itself, before the runtime sees it |
//! | [`onnx`] | a graph, ready to run |
//! | [`torchscript`] | a TorchScript module, ready to run |
//! | [`mod@compare`] | two policies over the same records |
//!
//! # Invariants
//!
//! - Such a policy has inputs `input_ids`, `attention_mask` and `position_ids`, [rows, tokens] int64, and gives logits
//!   [rows, tokens, V]. A row is one sequence and padding: packed layouts need a mask that it cannot be given.
//! - What does not fit is found when a policy is opened, not in the middle of a run.

mod error;
pub mod batch_inputs;
pub mod batches_by_length;
pub mod scorer;
pub mod runtime;
pub mod onnx_file;
pub mod onnx;
pub mod torchscript;
pub mod compare;

pub use error::PolicyError;
pub use onnx::OnnxPolicy;
pub use scorer::{LogitsPolicy, Scorer};
pub use torchscript::TorchScriptPolicy;
