//! `lambda-dpo train`: stages `sft`, `dpo` and `lambda_dpo`.
//!
//! The journey of a run:
//!
//! 1. [`durable`] decides where it starts: at the first step, after a checkpoint, or not at all because it is finished.
//! 2. [`mod@setup`] prepares the device, loads the plugin and finds the model.
//! 3. [`data`] reads and tokenises the records, and groups them into micro-batches with their λ.
//! 4. [`mod@plan`] counts the memory that its largest step needs, and warns if there is too little.
//! 5. [`mod@reference`] computes s^ref of every response, once.
//! 6. [`learner`] builds the [`trained_policy`] and its [`optimizer`].
//! 7. [`mod@run`] repeats [`step`], which turns micro-batches into one update, until the last one.
//! 8. [`log`] records it all, and [`durable`] saves it.
//!
//! # Invariants
//!
//! - Data order, λ and dropout are functions of the seed and the step, so a resumed run equals one that never stopped.
//! - Every file appears whole or not at all; `metrics.jsonl` grows by whole lines and is cut back on resuming.

pub mod durable;
mod setup;
pub mod data;
pub mod plan;
pub mod forward;
pub mod trained_policy;
pub mod reference;
pub mod optimizer;
pub mod lr;
pub mod step;
mod learner;
mod run;
pub mod log;
mod error;

use std::path::Path;

use crate::config::RunConfig;
use crate::console::say;
use crate::files::lock::{FolderLock, LockError};
use crate::interrupt::Interrupt;

pub use error::TrainError;
pub use plan::RunPlan;
pub use run::Outcome;

use data::Data;
use durable::{Checkpoint, Start, TrainerState};
use run::Run;
use setup::Setup;

/// Starts or resumes the run that a config describes, and takes it to its end.
///
/// # Errors
///
/// Returns a [`TrainError`] if the run cannot go on. Checkpoints saved until then remain.
pub fn run(config: &RunConfig, plugin: Option<&Path>) -> Result<Outcome, TrainError> {
    let interrupt = Interrupt::listen()?;
    // Held to the end: two runs would mix their results. Before anything is computed, it also shows that the folder can be
    // written.
    let output_dir = &config.output_dir;
    let lock = match FolderLock::acquire(output_dir) {
        Err(error @ LockError::Held { .. }) => return Err(TrainError::of_lock(output_dir, error)),
        other => other,
    };
    let checkpoint = match durable::output::find_start(config)? {
        Start::Fresh => None,
        Start::Resume(checkpoint) => Some(checkpoint),
        // A finished run may be where nothing can be written.
        Start::Finished(result) => {
            if lock.is_ok() {
                sweep(output_dir);
            }
            say(&format!("this run is finished: its result is in {}", result.display()));
            return Ok(Outcome::Finished(result));
        }
    };
    let _lock = lock.map_err(|error| TrainError::of_lock(output_dir, error))?;
    sweep(output_dir);
    match train(config, plugin, checkpoint.as_deref(), &interrupt) {
        // The progress callback told the plugin to stop.
        Err(TrainError::Plugin(error)) if error.is_cancelled() => Ok(stopped_early(&interrupt)),
        other => other,
    }
}

/// Removes what is left of writes that were interrupted in an output folder that this process has locked.
fn sweep(output_dir: &Path) {
    durable::checkpoint::sweep(output_dir);
    log::run_log::sweep(output_dir);
}

fn train(
    config: &RunConfig,
    plugin: Option<&Path>,
    checkpoint: Option<&Checkpoint>,
    interrupt: &Interrupt,
) -> Result<Outcome, TrainError> {
    let setup = Setup::new(config, plugin, checkpoint, interrupt)?;
    let data = Data::open(&setup)?;
    let batches = data.batches(config, &setup.plugin)?;
    let state = TrainerState::start(config, data.hash(), batches.max_steps, checkpoint)?;
    if let Some(plan) = RunPlan::of_run(&setup, &data, &batches)?
        && let Some(warning) = plan.warning()
    {
        say(&warning);
    }

    let (model, references) = reference::load_model_and_references(&setup, &batches)?;
    if interrupt.signal().is_some() {
        return Ok(stopped_early(interrupt));
    }
    let learner = learner::start(&setup, model, data.adapter_dimensions(config), references.train.is_some())?;

    Run::new(&setup, &data, batches, references, state).steps(learner)
}

fn stopped_early(interrupt: &Interrupt) -> Outcome {
    say("stopped before the first step: nothing to save; run the same command to start again");
    Outcome::Interrupted(interrupt.signal().unwrap_or(signal_hook::consts::SIGINT))
}
