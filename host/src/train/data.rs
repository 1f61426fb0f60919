//! The records of a run: opened, ordered, given their λ and collated into micro-batches.
//!
//! | module | what |
//! |---|---|
//! | [`open`] | record files → tokenised samples, with a report of what was left out |
//! | [`order`] | which samples an optimiser step takes |
//! | [`lambda`] | λ of each prompt |
//! | [`batches`] | samples and λ → micro-batches |

pub mod open;
pub mod order;
pub mod lambda;
pub mod batches;

pub use batches::{EvalBatches, MicroBatch, TrainBatches};
pub use lambda::{LambdaSource, schedule_options};
pub use open::Data;
pub use order::{EpochOrder, Plan};
