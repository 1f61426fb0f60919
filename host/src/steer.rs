//! `lambda-dpo steer`: measures what λ controls.
//!
//! | module | what |
//! |---|---|
//! | `grid` | the λ to measure at |
//! | `report` | the control report: what was measured, and what follows from it |
//! | `measure` | the whole measurement |
//! | `table` | the report's tables for a terminal |
//! | `page` | curves and fronts in one HTML page |
//! | `folder` | `steer.json` and the page on disk |
//!
//! # Invariants
//!
//! - A report appears whole or not at all: everything is measured before the first byte is written.
//! - The model answers the same prompts with the same random numbers at every λ.

mod grid;
mod report;
mod measure;
mod table;
mod page;
mod folder;

pub use folder::{FILES, read, write};
pub use measure::{Settings, measure};
pub use report::{ControlReport, NamedReport, Subject};
pub use table::tables;
