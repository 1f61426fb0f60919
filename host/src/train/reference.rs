//! Reference log-probs: computed once before training, held for each response, shared between runs.
//!
//! | module | what |
//! |---|---|
//! | [`wanted`] | the samples whose log-probs a run needs, and in which batches |
//! | [`key`] | the reference model as a hash |
//! | [`cache`] | log-probs on disk |
//! | [`compute`] | from the cache or from the model |
//! | [`log_probs`] | s^ref of each response, as training asks for it |
//!
//! # Invariants
//!
//! - An entry is found by the hashes of the model and of the sample's tokens: of any change in either, nothing is found.
//! - What is computed depends on what is missing alone, so a cache that one run has filled gives the next, of the same
//!   config, the same bits. In batches of another make-up the last bits of a log-prob differ.

pub mod wanted;
pub mod key;
pub mod cache;
pub mod compute;
pub mod log_probs;

pub use cache::ReferenceCache;
pub use compute::Reference;
pub use key::{model_key, policy_key};
pub use log_probs::ReferenceLogProbs;
pub use wanted::Wanted;
