//! What a run reports: sums over micro-batches, and the lines of `metrics.jsonl`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tch::{Device, Kind, TchError, Tensor};

use crate::plugin::{Batch, ListwiseOutputs, LossOutputs, Reduction};

/// One line of `metrics.jsonl`.
pub type Row = Map<String, Value>;

/// What turns the plugin's outputs into metrics.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// β, by which rewards are divided to give log-ratios.
    pub beta: f64,
    /// Whether log-ratios must be multiplied by lengths to be sums.
    pub reduction: Reduction,
    /// s^ref is not 0.
    pub has_reference: bool,
}

/// Sums over the micro-batches of a step or an evaluation, from which the means are taken.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Σ of the losses, each already divided by the step's normaliser.
    pub loss: f64,
    num_prompts: f64,
    accuracy: f64,
    margin: f64,
    num_responses: f64,
    log_ratio: f64,
    dimensions: Vec<DimensionTotals>,
}

#[derive(Clone, Debug, Default)]
struct DimensionTotals {
    count: f64,
    loss: f64,
    accuracy: f64,
}

impl Totals {
    /// Adds a micro-batch.
    ///
    /// # Errors
    ///
    /// What libtorch refuses.
    pub fn add(&mut self, outputs: &LossOutputs, batch: &Batch, meaning: &Meaning) -> Result<(), TchError> {
        self.loss += outputs.loss.f_double_value(&[])?;
        match &outputs.listwise {
            Some(listwise) => self.add_listwise(listwise, batch, meaning),
            None => Ok(()),
        }
    }

    fn add_listwise(&mut self, listwise: &ListwiseOutputs, batch: &Batch, meaning: &Meaning) -> Result<(), TchError> {
        let lambda = rows(&batch.lambda)?; // [B, M]
        let accuracies = values(&listwise.accuracies)?;
        let margins = values(&listwise.margins)?;
        for (prompt, lambda) in lambda.iter().enumerate() {
            if lambda.iter().any(|weight| *weight > 0.0) {
                self.num_prompts += 1.0;
                self.accuracy += accuracies[prompt];
                self.margin += margins[prompt];
            }
        }

        let lengths = values(&batch.sequence_num_tokens)?;
        for (reward, length) in values(&listwise.rewards)?.iter().zip(lengths) {
            let tokens = if meaning.reduction == Reduction::Mean { length } else { 1.0 };
            self.log_ratio += reward / meaning.beta * tokens;
            self.num_responses += 1.0;
        }

        let losses = rows(&listwise.dimension_losses)?;
        let counts = rows(&listwise.dimension_mask)?;
        let accuracies = rows(&listwise.dimension_accuracies)?;
        self.dimensions.resize_with(lambda.first().map_or(0, Vec::len), DimensionTotals::default);
        for (dimension, totals) in self.dimensions.iter_mut().enumerate() {
            for prompt in (0..lambda.len()).filter(|prompt| counts[*prompt][dimension] > 0.0) {
                totals.count += 1.0;
                totals.loss += losses[prompt][dimension];
                totals.accuracy += accuracies[prompt][dimension];
            }
        }
        Ok(())
    }

    /// Writes the means into `row`, every key behind `prefix`; what has no meaning is left out.
    pub fn write(&self, row: &mut Row, prefix: &str, dimensions: &[String], meaning: &Meaning) {
        let mut put = |key: String, value: f64| row.insert(format!("{prefix}{key}"), value.into());
        put("loss".into(), self.loss);
        for (name, totals) in dimensions.iter().zip(&self.dimensions).filter(|(_, totals)| totals.count > 0.0) {
            put(format!("loss/{name}"), totals.loss / totals.count);
        }
        if self.num_prompts > 0.0 {
            put("rewards/accuracies".into(), self.accuracy / self.num_prompts);
            if !prefix.is_empty() {
                for (name, totals) in dimensions.iter().zip(&self.dimensions).filter(|(_, totals)| totals.count > 0.0) {
                    put(format!("rewards/accuracies/{name}"), totals.accuracy / totals.count);
                }
            }
            put("rewards/margins".into(), self.margin / self.num_prompts);
        }
        if meaning.has_reference && self.num_responses > 0.0 {
            put("kl".into(), self.log_ratio / self.num_responses);
        }
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_reshape([-1])?)
}

fn rows(tensor: &Tensor) -> Result<Vec<Vec<f64>>, TchError> {
    Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)
}

/// `metrics.jsonl`: appended to line by line, cut back on resuming.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// An empty file, or the one that stands there cut back to lines of steps up to `last_step`.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn open(path: &Path, last_step: Option<u64>) -> io::Result<Self> {
        let kept = match last_step {
            Some(last_step) => read(path)?.into_iter().filter(|row| step_of(row) <= last_step).collect(),
            None => Vec::new(),
        };
        let text: String = kept.iter().map(line).collect();
        crate::atomic::write(path, text.as_bytes()).map_err(|error| error.source)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn append(&mut self, row: &Row) -> io::Result<()> {
        self.file.write_all(line(row).as_bytes())
    }

    /// Every line that was written, in order.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn rows(&self) -> io::Result<Vec<Row>> {
        read(&self.path)
    }
}

/// The lines of a metrics file; a last one that was cut short by a kill is left out.
///
/// # Errors
///
/// The file cannot be read; a file that does not exist has no lines.
pub fn read(path: &Path) -> io::Result<Vec<Row>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The step of a line.
pub fn step_of(row: &Row) -> u64 {
    row.get("step").and_then(Value::as_u64).unwrap_or(0)
}

/// The (step, value) pairs of the lines that have `key`.
pub fn curve(rows: &[Row], key: &str) -> Vec<(u64, f64)> {
    rows.iter().filter_map(|row| Some((step_of(row), row.get(key)?.as_f64()?))).collect()
}

fn line(row: &Row) -> String {
    format!("{}\n", Value::Object(row.clone()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn row(step: u64, loss: f64) -> Row {
        Row::from_iter([("step".to_owned(), step.into()), ("loss".to_owned(), loss.into())])
    }

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, None).unwrap();
        for step in 1..=5 {
            file.append(&row(step, 1.0 / step as f64)).unwrap();
        }
        drop(file);
        // As a kill leaves it.
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\": 6, \"lo");
        std::fs::write(&path, text).unwrap();
        let mut file = MetricsFile::open(&path, Some(3)).unwrap();
        file.append(&row(4, 0.25)).unwrap();
        assert_eq!(curve(&file.rows().unwrap(), "loss"), [(1, 1.0), (2, 0.5), (3, 1.0 / 3.0), (4, 0.25)]);
    }
}
