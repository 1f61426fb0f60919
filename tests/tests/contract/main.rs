//! The plugin's contract: every function gives what the core gives, whatever comes in; nothing that a caller does wrong
//! does more than fail with a sentence.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod arrow;
mod arrow_memory;
mod consumer;
mod coverage;
mod data_path;
mod datasets;
mod handles;
mod loss_misuse;
mod losses;
mod misuse;
mod nulls;
mod records;
mod sizes;
mod tensors;
mod threads;
mod versions;
