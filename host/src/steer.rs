//! `lambda-dpo steer`: what λ controls, measured.
//!
//! | module | what |
//! |---|---|
//! | `grid` | the λ to measure at |
//! | `held_out` | rated records: expected ratings, reward accuracy, KL |
//! | `rater` | commands that score generated text |
//! | `report` | what was measured, and its tables |
//! | `measure` | the whole measurement |
//! | `plot`, `page` | curves and fronts in one HTML page |
//! | `folder` | `steer.json` and the page on disk |
//!
//! # Invariants
//!
//! - A report appears whole or not at all: everything is measured before the first byte is written.
//! - Every λ answers the same prompts with the same random numbers.

mod grid;
mod held_out;
mod rater;
mod report;
mod measure;
mod plot;
mod page;
mod folder;

pub use folder::{read, write};
pub use grid::Grid;
pub use held_out::HeldOut;
pub use measure::{Settings, measure};
pub use rater::{Answer, Rater, Scores};
pub use report::{Compared, Generation, Point, Report, Subject};
