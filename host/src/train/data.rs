//! The records of a run: read, tokenised, ordered, given their λ, and collated into micro-batches.
//!
//! | module | what |
//! |---|---|
//! | [`open`] | record files → tokenised samples, with a report of skipped records |
//! | [`order`] | the samples of each optimiser step |
//! | [`lambda`] | λ of each prompt |
//! | [`batches`] | samples and λ → micro-batches |

pub mod open;
pub mod order;
pub mod lambda;
pub mod batches;

pub use batches::{EvalBatches, MicroBatch, RunBatches, TrainBatches};
pub use lambda::{LambdaSource, schedule_options};
pub use open::Data;
pub use order::{EpochOrder, Plan};
