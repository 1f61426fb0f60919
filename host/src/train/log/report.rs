//! Everything that a run writes about itself: `metrics.jsonl`, TensorBoard events, `loss.svg`, `run.toml`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::RunConfig;
use crate::files::atomic;
use crate::metrics::Row;
use crate::train::TrainError;

use super::metrics_file::{MetricsFile, curve, step_of};
use super::plot::loss_svg;
use super::tensorboard::EventWriter;

const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";
const PLOT: &str = "loss.svg";
const CONFIG: &str = "run.toml";

/// The open log files of a run.
#[derive(Debug)]
pub struct Report {
    output_dir: PathBuf,
    metrics: MetricsFile,
    events: EventWriter,
}

impl Report {
    /// Begins the logs, or goes on after `last_step`: lines beyond it are cut off.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn open(config: &RunConfig, last_step: Option<u64>) -> Result<Self, TrainError> {
        let output_dir = config.output_dir.clone();
        let log_error = |name: &str| {
            let path = output_dir.join(name);
            move |source| TrainError::Log { path, source }
        };
        std::fs::create_dir_all(&output_dir).map_err(log_error(""))?;
        let absolute = config.absolute().map_err(log_error(CONFIG))?;
        let text = toml::to_string(&absolute).map_err(|error| log_error(CONFIG)(std::io::Error::other(error)))?;
        atomic::write(&output_dir.join(CONFIG), text.as_bytes())?;
        let events = output_dir.join(EVENTS);
        if last_step.is_none() && events.exists() {
            std::fs::remove_dir_all(&events).map_err(log_error(EVENTS))?;
        }
        Ok(Self {
            metrics: MetricsFile::open(&output_dir.join(METRICS), last_step).map_err(log_error(METRICS))?,
            events: EventWriter::create(&events, last_step.map_or(0, |step| step + 1)).map_err(log_error(EVENTS))?,
            output_dir,
        })
    }

    /// Appends a line of metrics, to the events too.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn log(&mut self, row: &Row) -> Result<(), TrainError> {
        let log_error = |name: &str| {
            let path = self.output_dir.join(name);
            move |source| TrainError::Log { path, source }
        };
        self.metrics.append(row).map_err(log_error(METRICS))?;
        let is_metric = |key: &str| key != "step" && key != "epoch";
        let scalars = row.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_f64()?)));
        self.events.scalars(step_of(row), scalars.filter(|(key, _)| is_metric(key))).map_err(log_error(EVENTS))
    }

    /// Draws `loss.svg` from the lines so far.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn plot(&self) -> Result<PathBuf, TrainError> {
        let path = self.output_dir.join(PLOT);
        let log_error = |source| TrainError::Log { path: path.clone(), source };
        let rows = self.metrics.rows().map_err(log_error)?;
        let title = self.output_dir.file_name().unwrap_or_default().to_string_lossy();
        let svg = loss_svg(&title, &curve(&rows, "loss"), &curve(&rows, "eval_loss"))
            .map_err(|problem| log_error(std::io::Error::other(problem)))?;
        atomic::write(&path, svg.as_bytes())?;
        Ok(path)
    }
}

/// A number of a row for a message: four significant digits.
pub fn show(row: &Row, key: &str) -> Option<String> {
    let value = row.get(key).and_then(Value::as_f64)?;
    Some(if value != 0.0 && value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.4}") })
}

/// Where `run.toml` of an output folder stands.
pub fn config_path(output_dir: &Path) -> PathBuf {
    output_dir.join(CONFIG)
}
