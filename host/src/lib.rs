//! The lambda-dpo program: trains, scores and generates with language models, and reaches the λ-DPO core only through
//! the plugin's C ABI, as any other trainer would.
//!
//! # Invariants
//!
//! - Never depends on `lambda-dpo-core`.
//! - Unsafe code stands in [`plugin`] and [`libtorch`] alone.

pub mod cli;
pub mod commands;
pub mod config;
pub mod hub;
pub mod cache;

pub mod libtorch;
pub mod atomic;
pub mod tensor_bytes;
pub mod safetensors;
pub mod plugin;
pub mod model;
pub mod generate;
pub mod export;
pub mod foreign;

pub mod train;
pub mod steer;
