//! What makes a run durable: where it starts, checkpoints, and a stop on a signal.
//!
//! | module | what |
//! |---|---|
//! | [`signals`] | SIGINT and SIGTERM |
//! | [`checkpoint`] | `checkpoint-<step>/` |
//! | [`output`] | what is in the output folder, and where a run starts |

pub mod signals;
pub mod checkpoint;
pub mod output;

pub use checkpoint::{Checkpoint, TrainerState};
pub use output::Start;
pub use signals::Interrupt;
