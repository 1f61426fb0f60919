//! `metrics.jsonl` of a run, and what it says at the end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::evaluate::evaluation::RunFigures;
use crate::evaluate::figure::{Better, Figure, Section, Unit};
use crate::evaluate::figures::Measured;
use crate::metrics::{Row, present_name};

/// The log of a training.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// Lines of the steps, by step.
    steps: BTreeMap<u64, Row>,
    /// Lines of the evaluations, by step.
    evaluations: BTreeMap<u64, Row>,
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
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut metrics = Metrics::default();
    for (index, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row: Row = match serde_json::from_str(line) {
            Ok(row) => row,
            Err(_) if !line.ends_with('\n') => break,
            Err(error) => {
                bail!("{}, line {}, is no line of metrics ({error}): remove it", path.display(), index + 1)
            }
        };
        let row: Row = row.into_iter().map(|(key, value)| (present_name(&key), value)).collect();
        let Some(step) = row.get("step").and_then(Value::as_u64) else {
            bail!("{}, line {}, has no `step`, a whole number: remove the line", path.display(), index + 1);
        };
        let lines = if row.contains_key("eval_loss") { &mut metrics.evaluations } else { &mut metrics.steps };
        metrics.num_replaced += usize::from(lines.insert(step, row).is_some());
    }
    Ok(metrics)
}

impl Metrics {
    /// Whether there is no line.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.evaluations.is_empty()
    }

    /// Returns (step, value) of the lines that have `key`.
    pub(super) fn curve(&self, key: &str) -> Vec<(u64, f64)> {
        let lines = if key.starts_with("eval_") { &self.evaluations } else { &self.steps };
        lines.iter().filter_map(|(step, row)| Some((*step, row.get(key)?.as_f64()?))).collect()
    }

    /// Returns what the training cost; None if no step was logged.
    ///
    /// A line's time is that of its own step, and stands for the steps since the line before it, if not every step was
    /// logged.
    pub(super) fn cost(&self, folder: &Path) -> Option<RunFigures> {
        let mut last_step = 0;
        let mut seconds = 0.0;
        for (step, step_secs) in self.curve("step_secs") {
            seconds += step_secs * (step - last_step) as f64;
            last_step = step;
        }
        let mut speeds: Vec<f64> = self.curve("tokens_per_second").into_iter().map(|(_, speed)| speed).collect();
        speeds.sort_by(f64::total_cmp);
        let peak = |key: &str| self.curve(key).into_iter().map(|(_, bytes)| bytes).reduce(f64::max);
        let peak = peak("peak_device_memory_bytes").or_else(|| peak("peak_memory_bytes"));
        Some(RunFigures {
            folder: folder.to_path_buf(),
            steps: *self.steps.keys().next_back()?,
            seconds,
            tokens_per_second: median(&speeds)?,
            peak_memory_bytes: peak.unwrap_or(0.0) as u64,
        })
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

/// Returns the median of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
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
            "F, line 2, has no `step`, a whole number: remove the line"
        );
    }

    #[test]
    fn times_of_logged_steps_stand_for_the_steps_between() {
        let metrics =
            of("{\"step\":10,\"loss\":1.0,\"step_secs\":0.5,\"tokens_per_second\":100.0,\"peak_memory_bytes\":7}\n\
             {\"step\":20,\"loss\":1.0,\"step_secs\":0.25,\"tokens_per_second\":200.0,\"peak_memory_bytes\":9}\n\
             {\"step\":25,\"loss\":1.0,\"step_secs\":0.1,\"tokens_per_second\":400.0,\"peak_memory_bytes\":8}\n")
            .unwrap();
        let cost = metrics.cost(Path::new("run")).unwrap();
        assert!((cost.seconds - (5.0 + 2.5 + 0.5)).abs() < 1e-12);
        assert_eq!((cost.steps, cost.tokens_per_second, cost.peak_memory_bytes), (25, 200.0, 9));
        assert_eq!(of("").unwrap().cost(Path::new("run")), None);
        assert_eq!(median(&[1.0, 3.0]), Some(2.0));
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
