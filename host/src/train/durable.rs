//! Durability of a run: where it starts, and its checkpoints.
//!
//! | module | what |
//! |---|---|
//! | [`checkpoint`] | `checkpoint-<step>/` |
//! | [`output`] | the output folder, which determines where a run starts |

pub mod checkpoint;
pub mod output;

pub use checkpoint::{Checkpoint, TrainerState};
pub use output::Start;
