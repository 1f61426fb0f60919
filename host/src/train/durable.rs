//! Durability of a run: where it starts, its checkpoints, and stopping on a signal.
//!
//! | module | what |
//! |---|---|
//! | [`signals`] | SIGINT and SIGTERM |
//! | [`checkpoint`] | `checkpoint-<step>/` |
//! | [`output`] | the output folder, which determines where a run starts |

pub mod signals;
pub mod checkpoint;
pub mod output;

pub use checkpoint::{Checkpoint, TrainerState};
pub use output::Start;
pub use signals::Interrupt;
