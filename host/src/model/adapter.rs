//! Low-rank adapters, with λ or without, and their file.

pub(super) mod lambda_parts;
pub(super) mod lora;
pub(super) mod peft_file;
pub(super) mod state;

pub(super) use state::Adapter;
