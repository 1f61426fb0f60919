//! The plugin behind a safe face: loaded with libloading, checked, and called through its table alone.
//!
//! With [`crate::libtorch`], the host's only unsafe code. Every wrapper follows the table's rules: arguments are lent for
//! the call, outputs are taken over, a status other than OK becomes a [`PluginError`].

mod error;
mod load;
mod options;
mod report;
mod reader;
mod tokenizer;
mod lambda;
mod dataset;
mod loss;

pub use dataset::{Batch, Dataset, PREFETCH_CAPACITY, SampleInfo};
pub use error::PluginError;
pub use lambda::{Schedule, ScheduleKind, ScheduleOptions};
pub use load::Plugin;
pub use loss::{
    ListwiseOutputs, LossContext, LossGradients, LossInputs, LossOptions, LossOutputs, Objective, Reduction, Wants,
};
pub use options::{CacheUse, CollateOptions, ConvertOptions, DatasetOptions, Format, Layout, TokenizeOptions};
pub use reader::Reader;
pub use report::{MissingRatings, Report};
pub use tokenizer::{Message, Tokenizer, TokenizerInfo};
