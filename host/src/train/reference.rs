//! Reference log-probs: computed once before training, kept for each response, shared between runs.
//!
//! | module | what |
//! |---|---|
//! | [`mod@load`] | which policy is the reference, and s^ref of a run's samples under it |
//! | [`mod@validate`] | compares an exported reference with the model |
//! | [`request`] | the samples whose log-probs a run needs, and in which batches |
//! | [`key`] | the reference model as a hash |
//! | [`cache`] | log-probs on disk |
//! | [`compute`] | log-probs from the cache or from the reference policy |
//! | [`log_probs`] | s^ref of each response, as training reads it |
//!
//! # Invariants
//!
//! - An entry is found by the hashes of the model and of the sample's tokens: if either changes, nothing is found.
//! - The batches depend only on what is missing from the cache, so a cache that one run has filled gives the next run
//!   with the same config the same bits; so does what a run has filled that was stopped. In batches of other samples, the
//!   last bits of a log-prob differ.

pub mod key;
pub mod cache;
pub mod log_probs;
pub mod request;
pub mod compute;
mod validate;
mod load;

pub use cache::ReferenceCache;
pub use compute::Reference;
pub use load::References;
pub(super) use load::{has_reference, load_model_and_references};
pub use log_probs::ReferenceLogProbs;
pub use request::LogProbRequest;
