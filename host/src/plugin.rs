//! A safe interface to the plugin: the library is loaded with libloading, checked, and called only through its table.
//!
//! With [`crate::libtorch`], this is the host's only unsafe code. Every wrapper follows the rules of the ABI: arguments are
//! lent for the call, outputs are taken over, and a status other than OK becomes a [`PluginError`].

mod error;
mod call;
mod load;
mod options;
mod report;
mod reader;
mod tokenizer;
mod decode_stream;
mod lambda;
mod dataset;
mod loss;

pub use dataset::{Batch, Dataset, PREFETCH_CAPACITY, SampleInfo};
pub use decode_stream::DecodeStream;
pub use error::PluginError;
pub use lambda::{Schedule, ScheduleKind, ScheduleOptions};
pub use lambda_dpo_concepts::{Format, Layout, Objective, Reduction};
pub use load::Plugin;
pub use loss::{LossContext, LossGradients, LossInputs, LossOptions, LossOutputs, PreferenceOutputs, Wants};
pub use options::{CacheUse, CollateOptions, ConvertOptions, DatasetOptions, TokenizeOptions};
pub use reader::Reader;
pub use report::{MissingRatings, Report};
pub use tokenizer::{Message, Tokenizer, TokenizerInfo};
