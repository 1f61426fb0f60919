//! A run from its first step (or the one after a checkpoint) to its last.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::RunConfig;
use crate::console::{Progress, say};
use crate::libtorch;
use crate::metrics::{MetricOptions, Row, Totals};

use super::TrainError;
use super::data::{EvalBatches, MicroBatch, TrainBatches};
use super::durable::{Checkpoint, Interrupt, TrainerState, checkpoint, output};
use super::log::report::{self, Report, show};
use super::lr::LrSchedule;
use super::reference::{Reference, ReferenceLogProbs, Wanted};
use super::step::{Learner, StepReport, count};

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result stands in this folder.
    Finished(PathBuf),
    /// A signal stopped it; it can be resumed.
    Interrupted(i32),
}

/// Everything of a run but what it learns.
pub(super) struct Run<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) interrupt: &'a Interrupt,
    pub(super) max_steps: u64,
    pub(super) schedule: LrSchedule,
    /// Names under which metrics appear; none for stages with a single dimension or none.
    pub(super) dimensions: Vec<String>,
    pub(super) state: TrainerState,
    pub(super) batches: TrainBatches<'a>,
    pub(super) eval: Option<EvalBatches<'a>>,
    pub(super) reference: Option<ReferenceLogProbs>,
    pub(super) eval_reference: Option<ReferenceLogProbs>,
}

impl Run<'_> {
    /// s^ref of every sample that the run will meet.
    pub(super) fn compute_references(&mut self, reference: &Reference) -> Result<(), TrainError> {
        let batches = &self.batches;
        let first_step = batches.samples_of(0);
        let num_steps = batches.plan.steps_per_epoch().min(self.max_steps);
        let collate = batches.collate;
        let longest = batches.dataset.samples().iter().map(|sample| sample.num_tokens).max().unwrap_or(0);
        // A batch of the longest prompts is one that training may bring anyway, with gradients on top.
        let max_tokens = batches.plan.batch_size * longest;
        let mut wanted = vec![Wanted {
            dataset: batches.dataset,
            samples: (1..num_steps).flat_map(|step| batches.samples_of(step)).flatten().collect(),
            as_they_are: first_step,
            collate,
            max_tokens,
        }];
        wanted.extend(self.eval.as_ref().map(|eval| Wanted {
            dataset: eval.dataset(),
            as_they_are: eval.samples().map(<[usize]>::to_vec).collect(),
            samples: Vec::new(),
            collate,
            max_tokens,
        }));
        let mut log_probs = reference.log_probs(&wanted)?.into_iter();
        self.reference = log_probs.next();
        self.eval_reference = log_probs.next();
        Ok(())
    }

    /// Every step that is left, with its evaluations and checkpoints; then the result.
    pub(super) fn steps(
        mut self,
        mut learner: Learner,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Outcome, TrainError> {
        let train = &self.config.train;
        checkpoint::sweep(&self.config.output_dir);
        let mut report = Report::open(self.config, checkpoint.map(|checkpoint| checkpoint.state.global_step))?;
        let mut saved = checkpoint.map(|checkpoint| checkpoint.folder.clone());
        let first = self.state.global_step;
        let mut progress = Progress::new("training", self.max_steps, first);
        if first == 0 {
            self.evaluate(&learner, &mut report, &progress)?;
        }
        for step in first..self.max_steps {
            let started = Instant::now();
            let micro_batches = self.batches.step(step)?;
            if step + 1 < self.max_steps {
                self.batches.prefetch(step + 1)?;
            }
            let learning_rate = self.schedule.at(step);
            let outcome = learner
                .step(step, learning_rate, &micro_batches, self.reference.as_ref())
                .map_err(|error| error.with_checkpoint(saved.as_ref()))?;

            let done = step + 1;
            self.state.global_step = done;
            let row = self.row(&outcome, &learner.metric_options, learning_rate, &micro_batches, started)?;
            if done % train.logging_steps == 0 || done == self.max_steps {
                report.log(&row)?;
            }
            progress.update(done, self.max_steps, &message(&row));

            let is_last = done == self.max_steps;
            if is_last || train.eval_steps.is_some_and(|steps| done % steps == 0) {
                self.evaluate(&learner, &mut report, &progress)?;
            }
            let interrupted = self.interrupt.signal().filter(|_| !is_last);
            if interrupted.is_some() || (train.save_steps > 0 && done % train.save_steps == 0) {
                saved = Some(self.save(&learner)?);
                report.plot()?;
            }
            if let (Some(signal), Some(folder)) = (interrupted, &saved) {
                progress.clear();
                say(&format!(
                    "stopped after step {done} of {} with {}; go on with: lambda-dpo train {} train.resume=auto",
                    self.max_steps,
                    folder.display(),
                    report::config_path(&self.config.output_dir).display()
                ));
                return Ok(Outcome::Interrupted(signal));
            }
        }
        let result = output::result_folder(self.config);
        learner.policy.save(&result)?;
        let plot = report.plot()?;
        progress.finish("done");
        say(&format!("the result stands in {}, the curves in {}", result.display(), plot.display()));
        Ok(Outcome::Finished(result))
    }

    fn save(&mut self, learner: &Learner) -> Result<PathBuf, TrainError> {
        let plan = &self.batches.plan;
        self.state.epoch = plan.epochs_after(self.state.global_step);
        self.state.step_in_epoch = self.state.global_step % plan.steps_per_epoch();
        let Learner { policy, optimizer, .. } = learner;
        let RunConfig { output_dir, train, .. } = self.config;
        let save_policy = |folder: &Path| policy.save(folder);
        checkpoint::save(output_dir, save_policy, optimizer, &self.state, train.save_total_limit)
    }

    /// A line of `metrics.jsonl` for the step just done.
    fn row(
        &self,
        outcome: &StepReport,
        metric_options: &MetricOptions,
        learning_rate: f64,
        micro_batches: &[MicroBatch],
        started: Instant,
    ) -> Result<Row, TrainError> {
        let mut row = self.new_row();
        outcome.totals.write(&mut row, "", &self.dimensions, metric_options);
        row.insert("grad_norm".into(), outcome.grad_norm.into());
        row.insert("learning_rate".into(), learning_rate.into());
        let num_prompts: usize = micro_batches.iter().map(|micro_batch| micro_batch.samples.len()).sum();
        for (dimension, name) in self.dimensions.iter().enumerate() {
            let column = micro_batches
                .iter()
                .flat_map(|micro_batch| micro_batch.lambda.iter().skip(dimension).step_by(self.dimensions.len()));
            row.insert(format!("lambda/{name}"), (column.sum::<f64>() / num_prompts as f64).into());
        }
        let mut num_tokens = 0;
        for micro_batch in micro_batches {
            num_tokens += micro_batch.num_tokens()?;
        }
        let step_secs = started.elapsed().as_secs_f64();
        row.insert("tokens_per_second".into(), (num_tokens as f64 / step_secs).into());
        row.insert("step_secs".into(), step_secs.into());
        if let Some(bytes) = libtorch::peak_memory_bytes() {
            row.insert("peak_memory_bytes".into(), bytes.into());
        }
        Ok(row)
    }

    /// Evaluates on the held-out records, where there are any, and logs a line.
    fn evaluate(&self, learner: &Learner, report: &mut Report, progress: &Progress) -> Result<(), TrainError> {
        let Some(eval) = &self.eval else { return Ok(()) };
        let mut totals = Totals::default();
        let mut num_terms = 0;
        for micro_batch in eval.iter() {
            let micro_batch = micro_batch?;
            learner.evaluate(&micro_batch, self.eval_reference.as_ref(), &mut totals)?;
            num_terms += count(learner.loss.objective, &micro_batch);
        }
        totals.loss /= num_terms.max(1) as f64;
        let mut row = self.new_row();
        totals.write(&mut row, "eval_", &self.dimensions, &learner.metric_options);
        report.log(&row)?;
        let accuracy = show(&row, "eval_rewards/accuracies").map(|value| format!(", reward accuracy {value}"));
        progress.say(&format!(
            "step {}: evaluation loss {}{}",
            self.state.global_step,
            show(&row, "eval_loss").unwrap_or_default(),
            accuracy.unwrap_or_default()
        ));
        Ok(())
    }

    fn new_row(&self) -> Row {
        let step = self.state.global_step;
        let epoch = self.batches.plan.epochs_after(step);
        Row::from_iter([("step".to_owned(), step.into()), ("epoch".to_owned(), epoch.into())])
    }
}

/// What stands beside the progress bar.
fn message(row: &Row) -> String {
    let part = |key: &str, name: &str| show(row, key).map(|value| format!("{name} {value}"));
    let speed =
        row.get("tokens_per_second").and_then(serde_json::Value::as_f64).map(|speed| format!("{speed:.0} tokens/s"));
    [part("loss", "loss"), part("rewards/accuracies", "accuracy"), speed]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("  ")
}

impl TrainError {
    fn with_checkpoint(self, folder: Option<&PathBuf>) -> Self {
        match self {
            Self::NotFinite { what, value, step, records, .. } => {
                Self::NotFinite { what, value, step, records, checkpoint: folder.cloned() }
            }
            other => other,
        }
    }
}
