//! Stage 5 of the journey: `Batch` → hidden states, by one decoder for the families of `families.rs`: Llama, Mistral,
//! Qwen 2 and Qwen 3.
//!
//! | module | contents |
//! |---|---|
//! | `families` | the decoder families and how they differ |
//! | `config` | `config.json` |
//! | `precision` | the dtype of weights, and whether those of linear layers are in 4 bits |
//! | `parameters` | the weights: loaded from the folder, or initialised at random |
//! | `inputs` | rows of tokens, validated |
//! | `layers` | norm, rotary embedding, masks, attention, decoder layer |
//! | `pass` | state that all layers of a forward pass share |
//! | `kv_cache` | keys and values of the tokens so far, for decoding |
//! | `adapter` | LoRA and λ-adapters, and their files |
//! | `decoder` | embedding, layers and final norm |
//! | `reward_model` | a decoder with a score of the whole text |
//! | `causal_lm` | the language model, and its forward pass without gradients |
//! | `activations` | its forward and backward pass for training |
//! | `with_adapter` | adds, loads, disables and merges an adapter, and fixes its λ |
//! | `split` | a λ-adapter as ordinary LoRAs, one for each of its parts |
//! | `save` | writes folders that `transformers` and `peft` load |
//! | `key` | the model as a hash |
//! | `footprint` | memory and work of training, counted from shapes |
//!
//! # Invariants
//!
//! - Parameters have the names that they have in Transformers' checkpoints.
//! - The forward pass ends before the vocabulary projection, which the plugin computes from the hidden states.
//! - [`Model::hidden`] records no autograd graph; that of [`Model::forward`] ends at the hidden states.

mod error;
mod json_fields;
pub(crate) mod random;
mod families;
mod config;
mod precision;
mod parameters;
mod inputs;
mod layers;
mod adapter;
mod pass;
mod kv_cache;
mod decoder;
mod reward_model;
mod causal_lm;
mod activations;
mod with_adapter;
mod split;
mod save;
mod footprint;
mod key;

pub use activations::{Activations, ForwardOptions};
pub use adapter::lambda_parts::LambdaParts;
pub use adapter::lora::{LINEAR_NAMES, LoraConfig, TargetModules};
pub use causal_lm::Model;
pub use config::{ModelConfig, RopeScaling, dtype_name};
pub use error::ModelError;
pub use families::{Architecture, Bias, SlidingWindow};
pub use footprint::{Footprint, HeadOperations, RowLengths};
pub use inputs::ModelInputs;
pub use key::KEY_VERSION;
pub use kv_cache::{KvCache, RowKey};
pub(crate) use layers::segments::CPU_PAIRS_PER_CALL;
pub use precision::Precision;
pub use reward_model::RewardModel;
pub use save::{carry_files, write_chat_template};
pub use split::{LoraPart, LoraParts};
