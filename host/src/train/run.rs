//! A run from its first step, or the one after a checkpoint, to its last.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::{RunConfig, Stage};
use crate::console::{Progress, say};
use crate::interrupt::Interrupt;
use crate::libtorch::Libtorch;
use crate::metrics::{Row, Totals};

use super::TrainError;
use super::data::{Data, RunBatches};
use super::durable::{Checkpoint, TrainerState, checkpoint, output};
use super::log::rows::{FinishedStep, describe_evaluation, describe_step, eval_row, step_row};
use super::log::{RunLog, run_log};
use super::lr::LrSchedule;
use super::reference::References;
use super::setup::Setup;
use super::step::{Learner, num_terms};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is finished, with its result in this folder.
    Finished(PathBuf),
    /// A signal stopped it; it can be resumed.
    Interrupted(i32),
}

/// Everything of a run except its learner.
pub(super) struct Run<'a> {
    config: &'a RunConfig,
    checkpoint: Option<&'a Checkpoint>,
    interrupt: &'a Interrupt,
    libtorch: Libtorch,
    schedule: LrSchedule,
    /// Names of the dimensions in metrics; empty in stages without rated dimensions.
    dimensions: &'a [String],
    batches: RunBatches<'a>,
    references: References,
    state: TrainerState,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        setup: &Setup<'a>,
        data: &'a Data,
        batches: RunBatches<'a>,
        references: References,
        state: TrainerState,
    ) -> Self {
        let Setup { config, checkpoint, interrupt, libtorch, .. } = *setup;
        let schedule = LrSchedule::new(&config.train, batches.max_steps);
        let dimensions = if config.stage == Stage::LambdaDpo { data.dimensions() } else { &[] };
        Self { config, checkpoint, interrupt, libtorch, schedule, dimensions, batches, references, state }
    }

    /// Takes every step that is left, with its evaluations and checkpoints, and saves the result.
    pub(super) fn steps(mut self, mut learner: Learner) -> Result<Outcome, TrainError> {
        let train = &self.config.train;
        let max_steps = self.batches.max_steps;
        let first = self.state.global_step;
        let mut log = RunLog::open(self.config, self.checkpoint.map(|checkpoint| checkpoint.state.global_step))?;
        let mut saved = self.checkpoint.map(|checkpoint| checkpoint.folder.clone());
        let mut progress = Progress::new("training", max_steps, first);
        if first == 0 {
            self.evaluate(&learner, &mut log, &progress)?;
        }
        for step in first..max_steps {
            let started = Instant::now();
            let micro_batches = self.batches.train.step(step)?;
            if step + 1 < max_steps {
                self.batches.train.prefetch(step + 1)?;
            }
            let learning_rate = self.schedule.at(step);
            let report = learner
                .step(step, learning_rate, &micro_batches, self.references.train.as_ref())
                .map_err(|error| error.with_checkpoint(saved.as_ref()))?;

            let done = step + 1;
            self.reach(done);
            let (libtorch, micro_batches) = (self.libtorch, &micro_batches);
            let finished = FinishedStep { report: &report, learning_rate, micro_batches, started, libtorch };
            let row = step_row(self.new_row(), &finished, self.dimensions, &learner.metric_options)?;
            if done % train.logging_steps == 0 || done == max_steps {
                log.append(&row)?;
            }
            progress.update(done, max_steps, &describe_step(&row));

            let is_last = done == max_steps;
            if is_last || train.eval_steps.is_some_and(|steps| done % steps == 0) {
                self.evaluate(&learner, &mut log, &progress).map_err(|error| error.with_checkpoint(saved.as_ref()))?;
            }
            let interrupted = self.interrupt.signal().filter(|_| !is_last);
            if interrupted.is_some() || (train.save_steps > 0 && done % train.save_steps == 0) {
                let folder = self.save_checkpoint(&learner).map_err(|error| error.with_checkpoint(saved.as_ref()))?;
                saved = Some(folder);
                log.plot()?;
            }
            if let (Some(signal), Some(folder)) = (interrupted, &saved) {
                progress.clear();
                say(&format!(
                    "stopped after step {done} of {max_steps}, checkpoint saved to {}; resume with: lambda-dpo train {} \
                     train.resume=auto",
                    folder.display(),
                    run_log::config_path(&self.config.output_dir).display()
                ));
                return Ok(Outcome::Interrupted(signal));
            }
        }
        let result = output::result_folder(self.config);
        let finite = learner.policy.check_finite(self.state.global_step);
        finite.map_err(|error| error.with_checkpoint(saved.as_ref()))?;
        // The result comes last, so that nothing is missing where there is one.
        let plot = log.plot()?;
        self.state.save_result(&self.config.output_dir)?;
        learner.policy.save(&result)?;
        progress.finish("done");
        say(&format!("result written to {}, curves to {}", result.display(), plot.display()));
        Ok(Outcome::Finished(result))
    }

    /// Moves the state to after this step.
    fn reach(&mut self, step: u64) {
        let plan = &self.batches.train.plan;
        self.state.global_step = step;
        self.state.epoch = plan.epochs_after(step);
        self.state.step_in_epoch = step % plan.steps_per_epoch();
    }

    fn save_checkpoint(&self, learner: &Learner) -> Result<PathBuf, TrainError> {
        let Learner { policy, optimizer, .. } = learner;
        policy.check_finite(self.state.global_step)?;
        let RunConfig { output_dir, train, .. } = self.config;
        let save_policy = |folder: &Path| policy.save(folder);
        checkpoint::save(output_dir, save_policy, optimizer, &self.state, train.save_total_limit)
    }

    /// Evaluates on the held-out records, if there are any, and logs the metrics.
    fn evaluate(&self, learner: &Learner, log: &mut RunLog, progress: &Progress) -> Result<(), TrainError> {
        let Some(eval) = &self.batches.eval else { return Ok(()) };
        let mut totals = Totals::default();
        let mut num_eval_terms = 0;
        for micro_batch in eval.iter() {
            let micro_batch = micro_batch?;
            learner.evaluate(&micro_batch, self.references.eval.as_ref(), &mut totals)?;
            if !totals.loss.is_finite() {
                let records = Vec::try_from(&micro_batch.batch.record_indices)?;
                let (value, step) = (totals.loss, self.state.global_step);
                return Err(TrainError::EvaluationNotFinite { value, step, records, checkpoint: None });
            }
            num_eval_terms += num_terms(learner.loss.objective, &micro_batch);
        }
        totals.loss /= num_eval_terms.max(1) as f64;
        let row = eval_row(self.new_row(), &totals, self.dimensions, &learner.metric_options);
        log.append(&row)?;
        progress.say(&describe_evaluation(self.state.global_step, &row));
        Ok(())
    }

    /// The fields that every line of metrics begins with.
    fn new_row(&self) -> Row {
        let step = self.state.global_step;
        let epoch = self.batches.train.plan.epochs_after(step);
        Row::from_iter([("step".to_owned(), step.into()), ("epoch".to_owned(), epoch.into())])
    }
}
