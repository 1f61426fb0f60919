//! `lambda-dpo evaluate`: a tuned model on every axis: held-out records, divergence from its reference, length, win rate.
//!
//! | module | what |
//! |---|---|
//! | [`estimate`] | a mean and its standard error |
//! | [`win_rate`] | how often answers score higher than others, with and without length control |
//! | [`against`] | the others, read from a file |
//! | [`evaluation`] | what was measured, as `evaluation.json` holds it |

pub mod estimate;
pub mod evaluation;
pub mod win_rate;
pub mod against;

pub use estimate::Estimate;
pub use evaluation::Evaluation;
