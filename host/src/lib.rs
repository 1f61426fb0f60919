//! The lambda-dpo program: trains, scores and generates with language models, and reaches the λ-DPO core only through
//! the plugin's C ABI, as any other trainer would.
//!
//! # Invariants
//!
//! - The host never depends on `lambda-dpo-core`.
//! - Unsafe code is only in [`plugin`] and [`libtorch`].

pub mod console;
pub mod interrupt;
pub mod plot;
pub mod page;
pub mod libtorch;
pub mod files;
pub mod config;
pub mod plugin;
pub mod model;
pub mod metrics;
pub mod export;
pub mod policy;
pub mod lambda;
pub mod generate;
pub mod answers;
pub mod train;
pub mod steer;
pub mod schedule;
pub mod evaluate;
pub mod report;
pub mod serve;
pub mod cli;
pub mod commands;
