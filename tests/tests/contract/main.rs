//! The plugin's contract: every function returns what the core returns for any input, and whatever a caller does wrong
//! only makes the call fail with a message.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod arrow;
mod arrow_memory;
mod consumer;
mod coverage;
mod data_path;
mod datasets;
mod handles;
mod loss_misuse;
mod objective_misuse;
mod losses;
mod memory;
mod misuse;
mod nulls;
mod records;
mod sizes;
mod tensors;
mod threads;
mod versions;
