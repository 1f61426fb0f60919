//! Low-rank adapters (LoRA and λ-adapters), and their file format.

pub(super) mod lambda_parts;
pub(super) mod lora;
pub(super) mod peft_file;
pub(super) mod state;

pub(super) use state::Adapter;
