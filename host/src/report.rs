//! `lambda-dpo report`: several runs and evaluations side by side, with mean and spread over seeds.
//!
//! | module | what |
//! |---|---|
//! | `names` | folder names, shortened to what tells them apart |
//! | `metrics` | `metrics.jsonl` of a run, and what it says at the end |
//! | `benchmarks` | `benchmarks.json` of a run |
//! | `run` | everything that a run's folder holds |
//! | `group` | runs that differ only by seed: one row |
//! | `spread` | mean and spread over the runs of a row |
//! | [`comparison`] | the report, as `report.json` holds it |
//! | `curves` | the course of the training, row by row |
//! | [`mod@table`] | the report for a terminal |
//! | `page` | the report for a browser |
//! | `folder` | `report.json` and `report.html` on disk |
//!
//! # Invariants
//!
//! - All runs are read and compared before the first byte is written.
//! - Runs are averaged only if they differ in nothing but their seed, or if the command line gives them one name.

mod names;
mod metrics;
mod benchmarks;
mod run;
mod group;
mod spread;
pub mod comparison;
mod curves;
pub mod table;
mod page;
mod folder;

pub use comparison::{Comparison, Report, compare};
pub use folder::{FILES, write};
pub use table::table;
