//! What a training run cost.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::metrics::Row;
use crate::train::log::metrics_file::{read, step_of};

use super::evaluation::RunFigures;

/// Reads the figures of a run from its `metrics.jsonl`.
///
/// # Errors
///
/// Returns an error if the folder has no metrics of training steps.
pub fn run_figures(folder: &Path) -> Result<RunFigures> {
    let path = folder.join("metrics.jsonl");
    let rows = read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let steps: Vec<(u64, f64, &Row)> =
        rows.iter().filter_map(|row| Some((step_of(row), value(row, "step_secs")?, row))).collect();
    ensure!(
        !steps.is_empty(),
        "{} has no metrics of a training run: pass --run the `output_dir` of `train`, or leave it out",
        folder.display()
    );
    let column = |key: &str| steps.iter().filter_map(|(_, _, row)| value(row, key)).collect::<Vec<f64>>();
    let largest = |key: &str| column(key).into_iter().fold(0.0, f64::max) as u64;
    let device = largest("peak_device_memory_bytes");
    let num_steps = steps.iter().map(|(step, ..)| *step).max().unwrap_or(0);
    // Only every `logging_steps`-th step has a line.
    let mean_seconds = steps.iter().map(|(_, seconds, _)| seconds).sum::<f64>() / steps.len() as f64;
    Ok(RunFigures {
        folder: folder.to_path_buf(),
        steps: num_steps,
        seconds: mean_seconds * num_steps as f64,
        tokens_per_second: median(column("tokens_per_second")),
        peak_memory_bytes: if device > 0 { device } else { largest("peak_memory_bytes") },
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
