//! Stage 5 of the journey: `Batch` → hidden states, by one decoder for the families of `families.rs`: Llama, Mistral, Qwen 2
//! and Qwen 3.
//!
//! | module | what |
//! |---|---|
//! | `families` | the decoder families and how they differ |
//! | `config` | `config.json` |
//! | `parameters` | the tensors that it calls for, read from the folder or drawn at random |
//! | `inputs` | rows of tokens, checked |
//! | `layers` | norm, rotary embedding, masks, attention, decoder layer |
//! | `pass` | what a forward pass computes once for all layers |
//! | `kv_cache` | keys and values of the tokens decoded so far |
//! | `adapter` | low-rank adapters, with λ or without, and their file |
//! | `causal_lm` | the model |
//! | `activations` | its forward pass for training, and the backward |
//! | `with_adapter` | a model and its adapter: made, loaded, switched, set to one λ, merged |
//! | `save` | folders that `transformers` and `peft` load |
//!
//! # Invariants
//!
//! - Parameters keep the names that they have in Transformers' checkpoints.
//! - The vocabulary projection is not part of the forward pass: it belongs to the plugin, which takes hidden states.
//! - [`Model::hidden`] leaves no graph, [`Model::forward`] one that ends at the hidden states.

mod error;
mod json_fields;
pub(crate) mod random;
mod families;
mod config;
mod parameters;
mod inputs;
mod layers;
mod adapter;
mod pass;
mod kv_cache;
mod causal_lm;
mod activations;
mod with_adapter;
mod save;

pub use activations::{Activations, ForwardOptions};
pub use adapter::lambda_parts::LambdaParts;
pub use adapter::lora::{LINEAR_NAMES, LoraConfig, TargetModules};
pub use causal_lm::Model;
pub use config::{ModelConfig, RopeScaling, dtype_name};
pub use error::ModelError;
pub use families::{Architecture, Bias, SlidingWindow};
pub use inputs::ModelInputs;
pub use kv_cache::KvCache;
pub use save::{carry_files, write_chat_template};
