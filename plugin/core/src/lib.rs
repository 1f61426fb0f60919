//! λ-DPO from record to loss.
//!
//! # The journey of a record
//!
//! | # | stage | in → out | module |
//! |---|---|---|---|
//! | 1 | read | JSONL / JSON / Parquet row → [`Record`] | [`record`] |
//! | 2 | convert | [`Record`] → [`Sample`] | [`convert`] |
//! | 3 | tokenize | [`Sample`] → [`TokenizedSample`] | [`tokenize`] |
//! | 4 | collate | [`TokenizedSample`]s and λ → [`Batch`] | [`mod@collate`] |
//! | 5 | forward | the trainer's own | |
//! | 6 | log-probs | hidden states, LM head → token and sequence log-probs | [`mod@log_probs`] |
//! | 7 | loss | log-probs, reference, targets, λ → loss, metrics, gradient | [`loss`] |
//! | 8 | step | the trainer's own | |
//!
//! [`dataset`] runs stages 1 to 4 for trainers without a loader; [`lambda`] draws the λ for stage 4.
//!
//! # Invariants
//!
//! - It knows nothing of C and has no unsafe code.
//! - It is deterministic: no function reads a clock, an environment variable or torch's random generator.
#![forbid(unsafe_code)]

pub mod error;
pub mod record;
pub mod convert;
pub mod chat_template;
pub mod tokenize;
pub mod lambda;
pub mod collate;
pub mod log_probs;
pub mod loss;
pub mod dataset;

pub use collate::{Batch, CollateOptions, IGNORE_INDEX, collate};
pub use convert::{ConvertOptions, Converter, MissingRating, Report, Sample, SampleBatches, SampleReader};
pub use dataset::{Dataset, DatasetOptions};
pub use error::{Error, ErrorKind, Result};
pub use lambda::{Schedule, ScheduleKind, ScheduleOptions};
pub use lambda_dpo_concepts::{Format, Layout, Objective, Reduction};
pub use log_probs::{DEFAULT_LOGITS_BUDGET_BYTES, LogProbInputs, LogProbOptions, LossGradients, Wants, log_probs};
pub use loss::{
    LossContext, LossInputs, LossOptions, LossOutputs, PreferenceOutputs, loss_forward, renormalize_lambda,
};
pub use record::{Message, Prompt, Record};
pub use tokenize::{DecodeStream, TokenizeOptions, TokenizedResponse, TokenizedSample, Tokenizer};
