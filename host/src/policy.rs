//! Log-probs under any policy: the program's own models, ONNX graphs and TorchScript modules.
//!
//! | module | contents |
//! |---|---|
//! | [`batch_inputs`] | inputs of model, log-probs and loss from a batch |
//! | [`batches_by_length`] | groups samples into batches of a limited number of tokens |
//! | [`collation`] | how the samples of a batch are laid out in rows |
//! | [`scorer`] | the trait `Scorer`: log-probs of a batch |
//! | [`runtime`] | finds and loads ONNX Runtime |
//! | [`onnx_file`] | checks a file before the runtime opens it |
//! | [`onnx`] | a policy that is an ONNX graph |
//! | [`torchscript`] | a policy that is a TorchScript module |
//! | [`held_out`] | measures a policy on rated records, and provides their prompts |
//! | [`divergence`] | the exact divergence of one policy from another |
//! | [`mod@compare`] | compares two policies over the same records |
//!
//! # Invariants
//!
//! - An ONNX graph or TorchScript module takes `input_ids`, `attention_mask` and `position_ids`, [rows, tokens] int64,
//!   and returns logits [rows, tokens, V]. A row is one sequence and padding: packed rows would need a mask of another
//!   shape.
//! - A file that cannot serve as a policy is rejected when it is opened, not during a run.

mod error;
pub mod batch_inputs;
pub mod batches_by_length;
pub mod collation;
pub mod scorer;
pub mod runtime;
pub mod onnx_file;
pub mod onnx;
pub mod torchscript;
pub mod held_out;
pub mod divergence;
pub mod compare;

pub use error::PolicyError;
pub use onnx::OnnxPolicy;
pub use scorer::{LogitsPolicy, Scorer};
pub use torchscript::TorchScriptPolicy;
