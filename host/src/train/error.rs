//! Why a run stops.

use std::path::PathBuf;

use crate::config::ConfigError;
use crate::files::atomic::WriteError;
use crate::files::hub::HubError;
use crate::files::safetensors::SafetensorsError;
use crate::libtorch::DeviceError;
use crate::model::ModelError;
use crate::plugin::PluginError;
use crate::policy::PolicyError;

/// One sentence with what a person needs to go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The folder holds a run, and the config does not say to resume it.
    #[error(
        "{} already holds a run ({found}): resume it with train.resume=auto, choose another output_dir, or delete the folder",
        output_dir.display()
    )]
    OutputDirTaken {
        /// The folder.
        output_dir: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// A checkpoint that this run cannot go on from.
    #[error("cannot resume from {}: {problem}", folder.display())]
    Resume {
        /// The checkpoint.
        folder: PathBuf,
        /// Why, and what to do.
        problem: String,
    },
    /// Nothing to train or evaluate on.
    #[error("no sample is left of {key} ({counts}): check data.format, data.dimensions and data.exclude_sources")]
    NoSamples {
        /// The config's key.
        key: &'static str,
        /// What became of the records.
        counts: String,
    },
    /// A loss or gradient that is no number; no weight was changed by it.
    #[error(
        "the {what} is {value} at step {step}, before which the run stopped; its records were {}; {}; lower \
         train.learning_rate or look at these records",
        list(records),
        checkpoint.as_ref().map_or("no checkpoint was saved yet".to_owned(), |folder| format!("the last checkpoint is {}", folder.display()))
    )]
    NotFinite {
        /// Loss or gradient.
        what: &'static str,
        /// NaN or ±∞.
        value: f64,
        /// The step that was not taken, from 1.
        step: u64,
        /// Positions of its records in the concatenated inputs.
        records: Vec<i64>,
        /// The last checkpoint of the run.
        checkpoint: Option<PathBuf>,
    },
    /// A reference that is not what it should be.
    #[error(
        "the reference {} differs from the weights of {} by {found:.1e} in a token's log-prob, in record {record} the most \
         ({tolerance:e} is allowed): export it again, or set reference.validate = false if it is another policy by intent",
        path.display(),
        model.display()
    )]
    Reference {
        /// The reference's file.
        path: PathBuf,
        /// Largest difference of a token's log-prob.
        found: f64,
        /// Largest that is allowed.
        tolerance: f64,
        /// The record of that token.
        record: u64,
        /// The folder of the weights.
        model: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Log {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The cache of reference log-probs cannot be written.
    #[error("{}: cannot be written: {source}; set LAMBDA_DPO_CACHE to another folder, or reference.cache = false", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model or data set that is not there.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A tensor file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A file that could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// libtorch refused.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn list(records: &[i64]) -> String {
    const SHOWN: usize = 64;
    let mut text: Vec<String> = records.iter().take(SHOWN).map(i64::to_string).collect();
    if records.len() > SHOWN {
        text.push(format!("… ({} in all)", records.len()));
    }
    text.join(", ")
}
