//! `lambda-dpo evaluate`: a tuned model on every axis: held-out records, divergence from its reference, length, win rate.
//!
//! | module | what |
//! |---|---|
//! | [`estimate`] | a mean and its standard error |
//! | [`evaluation`] | what was measured, as `evaluation.json` holds it |
//! | [`policies`] | the policy and its reference |
//! | [`mod@spearman`] | rank correlation |
//! | `records` | the policy on held-out records |
//! | `own_answers` | answers that the policy samples, and its divergence on them |
//! | [`against`] | answers to compare them with, read from a file |
//! | [`mod@win_rate`] | how often answers score higher than others, with and without length control |
//! | `judged` | answers with a judge's scores |
//! | [`mod@run_figures`] | what a training run cost |
//! | [`mod@measure`] | the whole evaluation |
//! | [`answer_line`] | a line of `answers.jsonl` |
//! | [`figure`] | what a figure is: its unit, and how to read it |
//! | [`mod@figures`] | the figures of an evaluation, one by one |
//! | `table`, `page` | the evaluation for a terminal, and as an HTML page |
//! | [`folder`] | `evaluation.json`, `answers.jsonl` and the page on disk |
//!
//! # Invariants
//!
//! - An evaluation appears whole or not at all: everything is measured before the first byte is written.
//! - Policy and reference answer the same prompts with the same random numbers.

pub mod estimate;
pub mod evaluation;
pub mod policies;
pub mod spearman;
mod records;
mod own_answers;
pub mod against;
pub mod win_rate;
mod judged;
pub mod run_figures;
pub mod answer_line;
pub mod measure;
pub mod figure;
pub mod figures;
mod table;
mod page;
pub mod folder;

#[cfg(test)]
mod sample;

pub use answer_line::AnswerLine;
pub use estimate::Estimate;
pub use evaluation::Evaluation;
pub use folder::{FILES, write};
pub use measure::{Plan, measure};
pub use policies::{Policies, Reference};
pub use run_figures::run_figures;
pub use table::table;
