//! `lambda-dpo evaluate`: a tuned model on every axis: held-out records, divergence from its reference, length, win rate.
//!
//! | module | what |
//! |---|---|
//! | [`estimate`] | a mean and its standard error |
//! | [`evaluation`] | what was measured, as `evaluation.json` holds it |

pub mod estimate;
pub mod evaluation;

pub use estimate::Estimate;
pub use evaluation::Evaluation;
