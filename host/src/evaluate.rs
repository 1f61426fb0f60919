//! `lambda-dpo evaluate`: a tuned model on every axis: held-out records, divergence from its reference, length, win rate.
//!
//! | module | what |
//! |---|---|
//! | [`estimate`] | a mean and its standard error |
//! | [`evaluation`] | what was measured, as `evaluation.json` holds it |
//! | [`figure`] | what a figure is: its unit, and how to read it |
//! | [`mod@figures`] | the figures of an evaluation, one by one |
//! | [`mod@table`] | them in a terminal |
//! | [`page`] | them in a browser |

pub mod estimate;
pub mod evaluation;
pub mod figure;
pub mod figures;
pub mod table;
pub mod page;

#[cfg(test)]
pub mod sample;

pub use estimate::Estimate;
pub use evaluation::Evaluation;
