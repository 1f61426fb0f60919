//! A line of metrics for a step or an evaluation, and its short form for the terminal.

use std::time::Instant;

use serde_json::Value;
use tch::TchError;

use crate::libtorch::{self, Libtorch};
use crate::metrics::{MetricOptions, Row, Totals};
use crate::train::data::MicroBatch;
use crate::train::step::StepReport;

/// A finished step, as far as its line of metrics needs it.
pub(in crate::train) struct FinishedStep<'a> {
    pub(in crate::train) report: &'a StepReport,
    pub(in crate::train) learning_rate: f64,
    pub(in crate::train) micro_batches: &'a [MicroBatch],
    pub(in crate::train) started: Instant,
    /// The step ran on its device.
    pub(in crate::train) libtorch: Libtorch,
}

/// Returns the row of a step, which begins with `row`; `dimensions` are the names of the loss's dimensions.
pub(in crate::train) fn step_row(
    mut row: Row,
    step: &FinishedStep,
    dimensions: &[String],
    metric_options: &MetricOptions,
) -> Result<Row, TchError> {
    let FinishedStep { report, learning_rate, micro_batches, started, libtorch } = *step;
    report.totals.write(&mut row, "", dimensions, metric_options);
    row.insert("grad_norm".into(), report.grad_norm.into());
    row.insert("learning_rate".into(), learning_rate.into());
    let num_prompts: usize = micro_batches.iter().map(|micro_batch| micro_batch.samples.len()).sum();
    for (dimension, name) in dimensions.iter().enumerate() {
        let column = micro_batches
            .iter()
            .flat_map(|micro_batch| micro_batch.lambda.iter().skip(dimension).step_by(dimensions.len()));
        row.insert(format!("lambda/{name}"), (column.sum::<f64>() / num_prompts as f64).into());
    }
    let mut num_tokens = 0;
    for micro_batch in micro_batches {
        num_tokens += micro_batch.num_tokens()?;
    }
    // The update of the weights may still be queued on the device.
    libtorch.synchronize();
    let step_secs = started.elapsed().as_secs_f64();
    row.insert("tokens_per_second".into(), (num_tokens as f64 / step_secs).into());
    row.insert("step_secs".into(), step_secs.into());
    if let Some(bytes) = libtorch::peak_memory_bytes() {
        row.insert("peak_memory_bytes".into(), bytes.into());
    }
    if let Some(bytes) = libtorch::peak_device_memory_bytes(libtorch.device()) {
        row.insert("peak_device_memory_bytes".into(), bytes.into());
    }
    Ok(row)
}

/// Returns the row of an evaluation, which begins with `row`.
pub(in crate::train) fn eval_row(
    mut row: Row,
    totals: &Totals,
    dimensions: &[String],
    metric_options: &MetricOptions,
) -> Row {
    totals.write(&mut row, "eval_", dimensions, metric_options);
    row
}

/// Describes a step, to be shown beside the progress bar.
pub(in crate::train) fn describe_step(row: &Row) -> String {
    let part = |key: &str, name: &str| format_metric(row, key).map(|value| format!("{name} {value}"));
    let speed = row.get("tokens_per_second").and_then(Value::as_f64).map(|speed| format!("{speed:.0} tokens/s"));
    [part("loss", "loss"), part("rewards/accuracies", "accuracy"), speed]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("  ")
}

/// Describes an evaluation in a line.
pub(in crate::train) fn describe_evaluation(step: u64, row: &Row) -> String {
    let loss = format_metric(row, "eval_loss").unwrap_or_default();
    let accuracy = format_metric(row, "eval_rewards/accuracies").map(|value| format!(", reward accuracy {value}"));
    format!("step {step}: evaluation loss {loss}{}", accuracy.unwrap_or_default())
}

fn format_metric(row: &Row, key: &str) -> Option<String> {
    let value = row.get(key).and_then(Value::as_f64)?;
    Some(if value != 0.0 && value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.4}") })
}
