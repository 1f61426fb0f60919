//! All log files of a run: `metrics.jsonl`, TensorBoard events, `loss.svg`, `run.toml`.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::console::say;
use crate::files::atomic;
use crate::metrics::{LOG_RATIO, Row};
use crate::train::TrainError;

use super::metrics_file::{MetricsFile, step_of};
use super::plot::loss_svg;
use super::tensorboard::EventWriter;

const METRICS: &str = "metrics.jsonl";
const EVENTS: &str = "tensorboard";
const PLOT: &str = "loss.svg";
const CONFIG: &str = "run.toml";

/// The open log files of a run.
#[derive(Debug)]
pub struct RunLog {
    output_dir: PathBuf,
    metrics: MetricsFile,
    events: EventWriter,
}

impl RunLog {
    /// Starts new logs; given `last_step`, continues those of the folder and removes lines of later steps.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or written.
    pub fn open(config: &RunConfig, last_step: Option<u64>) -> Result<Self, TrainError> {
        let output_dir = config.output_dir.clone();
        let file_error = |name: &str| {
            let path = output_dir.join(name);
            move |source| TrainError::File { path, source }
        };
        std::fs::create_dir_all(&output_dir).map_err(file_error(""))?;
        let absolute = config.absolute().map_err(file_error(CONFIG))?;
        let text = toml::to_string(&absolute).map_err(|error| file_error(CONFIG)(std::io::Error::other(error)))?;
        atomic::write(&output_dir.join(CONFIG), text.as_bytes())?;
        let events = output_dir.join(EVENTS);
        if last_step.is_none() && events.exists() {
            std::fs::remove_dir_all(&events).map_err(file_error(EVENTS))?;
        }
        let metrics = MetricsFile::open(&output_dir.join(METRICS), last_step).map_err(file_error(METRICS))?;
        if metrics.has_renamed() {
            let path = output_dir.join(METRICS);
            say(&format!("{}: the metric `kl` of an earlier version is now called `{LOG_RATIO}`", path.display()));
        }
        Ok(Self {
            metrics,
            events: EventWriter::create(&events, last_step.map_or(0, |step| step + 1)).map_err(file_error(EVENTS))?,
            output_dir,
        })
    }

    /// Appends a line of metrics, and writes it as TensorBoard events.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be written.
    pub fn append(&mut self, row: &Row) -> Result<(), TrainError> {
        let file_error = |name: &str| {
            let path = self.output_dir.join(name);
            move |source| TrainError::File { path, source }
        };
        self.metrics.append(row).map_err(file_error(METRICS))?;
        let is_metric = |key: &str| key != "step" && key != "epoch";
        let scalars = row.iter().filter_map(|(key, value)| Some((key.as_str(), value.as_f64()?)));
        self.events.scalars(step_of(row), scalars.filter(|(key, _)| is_metric(key))).map_err(file_error(EVENTS))
    }

    /// Draws `loss.svg` from the lines so far, and returns its path.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or written.
    pub fn plot(&self) -> Result<PathBuf, TrainError> {
        let path = self.output_dir.join(PLOT);
        let file_error = |source| TrainError::File { path: path.clone(), source };
        let losses = self.metrics.losses();
        let title = self.output_dir.file_name().unwrap_or_default().to_string_lossy();
        let svg = loss_svg(&title, &losses.train, &losses.eval)
            .map_err(|problem| file_error(std::io::Error::other(problem)))?;
        atomic::write(&path, svg.as_bytes())?;
        Ok(path)
    }
}

/// Removes what is left of log files whose writing was interrupted.
pub fn sweep(output_dir: &Path) {
    atomic::sweep(output_dir, |name| [METRICS, PLOT, CONFIG].contains(&name));
}

/// Returns the path of `run.toml` in an output folder.
pub fn config_path(output_dir: &Path) -> PathBuf {
    output_dir.join(CONFIG)
}
