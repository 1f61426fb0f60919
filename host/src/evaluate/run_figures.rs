//! What a training run cost.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::metrics::Row;
use crate::train::log::metrics_file::{read, step_of};

use super::evaluation::RunFigures;

/// What a logged step cost.
#[derive(Clone, Copy, Debug)]
pub struct StepCost {
    /// Number of the step.
    pub step: u64,
    /// Its time.
    pub seconds: f64,
    /// Its speed.
    pub tokens_per_second: Option<f64>,
    /// Highest memory use of the process so far.
    pub peak_memory_bytes: Option<f64>,
    /// Highest memory use of the device so far; None on a CPU.
    pub peak_device_memory_bytes: Option<f64>,
}

/// Reads the figures of a run from its `metrics.jsonl`.
///
/// # Errors
///
/// Returns an error if the folder has no metrics of training steps.
pub fn run_figures(folder: &Path) -> Result<RunFigures> {
    let path = folder.join("metrics.jsonl");
    let rows = read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let cost = |row: &Row| {
        Some(StepCost {
            step: step_of(row),
            seconds: value(row, "step_secs")?,
            tokens_per_second: value(row, "tokens_per_second"),
            peak_memory_bytes: value(row, "peak_memory_bytes"),
            peak_device_memory_bytes: value(row, "peak_device_memory_bytes"),
        })
    };
    let steps: Vec<StepCost> = rows.iter().filter_map(cost).collect();
    figures_of(folder, &steps).with_context(|| {
        format!(
            "{} has no metrics of a training run: pass --run the `output_dir` of `train`, or leave it out",
            folder.display()
        )
    })
}

/// Sums up the logged steps of a run; None if there are none.
pub fn figures_of(folder: &Path, steps: &[StepCost]) -> Option<RunFigures> {
    let num_steps = steps.iter().map(|cost| cost.step).max()?;
    let largest = |of: fn(&StepCost) -> Option<f64>| steps.iter().filter_map(of).fold(0.0, f64::max) as u64;
    let device = largest(|cost| cost.peak_device_memory_bytes);
    // Only every `logging_steps`-th step has a line.
    let mean_seconds = steps.iter().map(|cost| cost.seconds).sum::<f64>() / steps.len() as f64;
    Some(RunFigures {
        folder: folder.to_path_buf(),
        steps: num_steps,
        seconds: mean_seconds * num_steps as f64,
        tokens_per_second: median(steps.iter().filter_map(|cost| cost.tokens_per_second).collect()),
        peak_memory_bytes: if device > 0 { device } else { largest(|cost| cost.peak_memory_bytes) },
    })
}

fn value(row: &Row, key: &str) -> Option<f64> {
    row.get(key).and_then(Value::as_f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn steps_are_summed_up_and_evaluations_left_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("metrics.jsonl"),
            "{\"step\": 1, \"step_secs\": 2.0, \"tokens_per_second\": 10, \"peak_memory_bytes\": 300}\n\
             {\"step\": 1, \"eval_loss\": 1.0}\n\
             {\"step\": 2, \"step_secs\": 0.5, \"tokens_per_second\": 40, \"peak_memory_bytes\": 200}\n",
        )
        .unwrap();
        let found = run_figures(folder.path()).unwrap();
        assert_eq!((found.steps, found.seconds, found.tokens_per_second), (2, 2.5, 25.0));
        assert_eq!(found.peak_memory_bytes, 300);
        let line = "{\"step\": 1, \"step_secs\": 2.0, \"peak_memory_bytes\": 300, \"peak_device_memory_bytes\": 70}\n";
        std::fs::write(folder.path().join("metrics.jsonl"), line).unwrap();
        assert_eq!(run_figures(folder.path()).unwrap().peak_memory_bytes, 70);
    }

    #[test]
    fn a_folder_without_metrics_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let message = run_figures(folder.path()).unwrap_err().to_string();
        assert!(
            message.ends_with(
                " has no metrics of a training run: pass --run the `output_dir` of `train`, or leave it out"
            ),
            "{message}"
        );
    }
}
