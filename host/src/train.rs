//! `lambda-dpo train`: stages `sft`, `dpo` and `lambda_dpo`.
//!
//! The journey of a run: [`durable`] decides where to start, [`mod@setup`] loads plugin and model, [`data`] opens the records,
//! [`mod@reference`] computes s^ref once, [`step`] turns micro-batches into an update of the [`policy`], [`run`](mod@run)
//! repeats that to the end, [`log`] and [`durable`] write it down.
//!
//! # Invariants
//!
//! - Data order, λ and dropout are functions of the seed and the step, so a resumed run equals one that never stopped.
//! - Every file appears whole or not at all; `metrics.jsonl` grows by whole lines and is cut back on resuming.

mod setup;
pub mod data;
pub mod reference;
pub mod policy;
pub mod forward;
pub mod optimizer;
pub mod lr;
pub mod step;
mod run;
pub mod log;
pub mod durable;
mod error;

use std::path::Path;

use crate::config::RunConfig;
use crate::console::say;

pub use error::TrainError;
pub use run::Outcome;

use durable::{Checkpoint, Interrupt, Start};
use setup::Setup;

/// Runs a config from where it stands to its end.
///
/// # Errors
///
/// [`TrainError`]; checkpoints that stood before still do.
pub fn run(config: &RunConfig, plugin: Option<&Path>) -> Result<Outcome, TrainError> {
    let interrupt = Interrupt::listen()?;
    let checkpoint = match durable::output::find_start(config)? {
        Start::Fresh => None,
        Start::Resume(checkpoint) => Some(checkpoint),
        Start::Finished(result) => {
            say(&format!("this run is finished: its result stands in {}, and nothing was done", result.display()));
            return Ok(Outcome::Finished(result));
        }
    };
    match train(config, plugin, checkpoint.as_deref(), &interrupt) {
        // The plugin's way to say that the progress callback asked to stop.
        Err(TrainError::Plugin(error)) if error.is_cancelled() => Ok(stopped_early(&interrupt)),
        other => other,
    }
}

fn stopped_early(interrupt: &Interrupt) -> Outcome {
    say("stopped before the first step; there is nothing to save, so start the run again as before");
    Outcome::Interrupted(interrupt.signal().unwrap_or(signal_hook::consts::SIGINT))
}

fn train(
    config: &RunConfig,
    plugin: Option<&Path>,
    checkpoint: Option<&Checkpoint>,
    interrupt: &Interrupt,
) -> Result<Outcome, TrainError> {
    let setup = Setup::new(config, plugin, checkpoint, interrupt)?;
    let data = setup.data()?;
    let mut run = setup.run(&data)?;
    let base = setup.base_and_references(&mut run)?;
    if interrupt.signal().is_some() {
        return Ok(stopped_early(interrupt));
    }
    let learner = setup.learner(base, data.adapter_dimensions(config), run.reference.is_some())?;
    run.steps(learner, checkpoint)
}
