//! `metrics.jsonl` of a run, and what it says at the end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::evaluate::evaluation::RunFigures;
use crate::evaluate::figure::{Better, Figure, Section, Unit};
use crate::evaluate::figures::Measured;
use crate::evaluate::run_figures::{StepCost, figures_of};
use crate::files::regular;

/// A line of a metrics file, as far as a report shows it: a long log has many more values than these.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    step: u64,
    loss: Option<f64>,
    #[serde(rename = "rewards/accuracies")]
    accuracy: Option<f64>,
    eval_loss: Option<f64>,
    #[serde(rename = "eval_rewards/accuracies")]
    eval_accuracy: Option<f64>,
    /// With its name of earlier versions.
    #[serde(rename = "eval_logps/ratio", alias = "eval_kl")]
    eval_log_ratio: Option<f64>,
    step_secs: Option<f64>,
    tokens_per_second: Option<f64>,
    peak_memory_bytes: Option<f64>,
    peak_device_memory_bytes: Option<f64>,
}

impl Line {
    fn get(&self, key: &str) -> Option<f64> {
        match key {
            "loss" => self.loss,
            "rewards/accuracies" => self.accuracy,
            "eval_loss" => self.eval_loss,
            "eval_rewards/accuracies" => self.eval_accuracy,
            "eval_logps/ratio" => self.eval_log_ratio,
            _ => None,
        }
    }
}

/// The log of a training.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Lines of the steps, by step.
    steps: BTreeMap<u64, Line>,
    /// Lines of the evaluations, by step.
    evaluations: BTreeMap<u64, Line>,
    /// Lines that a later one of the same step replaced.
    pub(super) num_replaced: usize,
}

/// Reads a metrics file. The last line is left out if it was cut short, as while the run goes on; of several lines of a step,
/// the last counts, because a run that was resumed does the step again.
///
/// # Errors
///
/// Returns an error if the file cannot be read, or another line is no JSON object with a step.
pub(super) fn read(path: &Path) -> Result<Metrics> {
    let text = regular::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut metrics = Metrics::default();
    for (index, text) in text.split_inclusive('\n').enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Line = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(_) if !text.ends_with('\n') => break,
            Err(error) => {
                bail!("{}, line {}, is no line of metrics ({error}): remove it", path.display(), index + 1)
            }
        };
        let lines = if line.eval_loss.is_some() { &mut metrics.evaluations } else { &mut metrics.steps };
        metrics.num_replaced += usize::from(lines.insert(line.step, line).is_some());
    }
    Ok(metrics)
}

impl Metrics {
    /// Whether there is no line.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.evaluations.is_empty()
    }

    /// Returns (step, value) of the lines that have `key`: `loss`, `rewards/accuracies`, both with `eval_`, or
    /// `eval_logps/ratio`.
    pub(super) fn curve(&self, key: &str) -> Vec<(u64, f64)> {
        let lines = if key.starts_with("eval_") { &self.evaluations } else { &self.steps };
        lines.values().filter_map(|line| Some((line.step, line.get(key)?))).collect()
    }

    /// Returns what the training cost; None if no step was timed.
    pub(super) fn cost(&self, folder: &Path) -> Option<RunFigures> {
        let cost = |line: &Line| {
            Some(StepCost {
                step: line.step,
                seconds: line.step_secs?,
                tokens_per_second: line.tokens_per_second,
                peak_memory_bytes: line.peak_memory_bytes,
                peak_device_memory_bytes: line.peak_device_memory_bytes,
            })
        };
        figures_of(folder, &self.steps.values().filter_map(cost).collect::<Vec<_>>())
    }

    /// Returns what the log says of the training's end.
    pub(super) fn figures(&self) -> Vec<Measured> {
        let mut all = Vec::new();
        for (key, title, unit, better, meaning) in [
            (
                "loss",
                "training loss",
                Unit::Nats,
                Some(Better::Lower),
                "The mean over the last tenth of the logged steps. Losses of different objectives cannot be compared.",
            ),
            (
                "rewards/accuracies",
                "training reward accuracy",
                Unit::Share,
                Some(Better::Higher),
                "The share of training prompts whose best-rated response has the highest implicit reward: the mean over the \
                 last tenth of the logged steps.",
            ),
            (
                "eval_loss",
                "evaluation loss",
                Unit::Nats,
                Some(Better::Lower),
                "The loss on the run's own evaluation records, at its last evaluation.",
            ),
            (
                "eval_rewards/accuracies",
                "evaluation reward accuracy",
                Unit::Share,
                Some(Better::Higher),
                "The reward accuracy on the run's own evaluation records, at its last evaluation.",
            ),
            (
                "eval_logps/ratio",
                "evaluation log-ratio",
                Unit::Nats,
                None,
                "The mean of log π − log π_ref over the responses of the run's own evaluation records, at its last \
                 evaluation. It is no divergence and may be negative.",
            ),
        ] {
            let curve = self.curve(key);
            // The last evaluation, or the last tenth of the steps.
            let num_last = if key.starts_with("eval_") { 1 } else { curve.len().div_ceil(10) };
            let last: Vec<f64> = curve.iter().rev().take(num_last).map(|(_, value)| *value).collect();
            if last.is_empty() {
                continue;
            }
            let (key, title, meaning) = (format!("train/{key}"), title.to_owned(), meaning.to_owned());
            let figure = Figure { key, section: Section::Training, title, unit, better, meaning };
            all.push(Measured { figure, value: last.iter().sum::<f64>() / last.len() as f64, stderr: None });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn of(text: &str) -> Result<Metrics> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, text).unwrap();
        let found = read(&path);
        found.map_err(|error| anyhow::anyhow!("{}", format!("{error:#}").replace(&path.display().to_string(), "F")))
    }

    #[test]
    fn a_resumed_step_counts_once_and_a_cut_line_not_at_all() {
        let metrics = of(
            "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.0}\n{\"step\":2,\"eval_loss\":1.5,\"eval_kl\":0.5}\n\
             {\"step\":2,\"loss\":2.5}\n{\"step\":3,\"lo",
        )
        .unwrap();
        assert_eq!(metrics.curve("loss"), [(1, 3.0), (2, 2.5)]);
        assert_eq!(metrics.curve("eval_loss"), [(2, 1.5)]);
        assert_eq!(metrics.curve("eval_logps/ratio"), [(2, 0.5)]);
        assert_eq!(metrics.num_replaced, 1);
    }

    #[test]
    fn lines_that_are_no_metrics_are_named() {
        let message = |text: &str| of(text).unwrap_err().to_string();
        assert_eq!(
            message("{\"step\":1,\"loss\":NaN}\n{\"step\":2}\n"),
            "F, line 1, is no line of metrics (expected value at line 1 column 18): remove it"
        );
        assert_eq!(
            message("{\"step\":1}\n{\"loss\":1.0}\n"),
            "F, line 2, is no line of metrics (missing field `step` at line 1 column 12): remove it"
        );
    }

    #[test]
    fn the_end_is_the_last_tenth_of_the_steps_and_the_last_evaluation() {
        let mut text: String = (1..=20).map(|step| format!("{{\"step\":{step},\"loss\":{step}.0}}\n")).collect();
        text.push_str("{\"step\":10,\"eval_loss\":5.0}\n{\"step\":20,\"eval_loss\":4.0}\n");
        let found: Vec<(String, f64)> =
            of(&text).unwrap().figures().into_iter().map(|measured| (measured.figure.key, measured.value)).collect();
        assert_eq!(found, [("train/loss".to_owned(), 19.5), ("train/eval_loss".to_owned(), 4.0)]);
    }
}
