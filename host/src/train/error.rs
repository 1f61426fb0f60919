//! Errors of a run.

use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::files::atomic::WriteError;
use crate::files::hub::HubError;
use crate::files::lock::{LockError, process};
use crate::files::record_files::RecordFilesError;
use crate::files::safetensors::SafetensorsError;
use crate::libtorch::DeviceError;
use crate::model::ModelError;
use crate::plugin::PluginError;
use crate::policy::PolicyError;

/// Error that ends a run, as one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The folder holds a run, and the config does not say to resume it.
    #[error(
        "{} already holds a run ({found}): resume it with train.resume=auto, choose another output_dir, or delete the folder",
        output_dir.display()
    )]
    OutputDirTaken {
        /// The output folder.
        output_dir: PathBuf,
        /// Name of the checkpoint or result in it.
        found: String,
    },
    /// Another process writes to the folder.
    #[error(
        "{} is in use by {}: wait until that run has ended, or choose another output_dir",
        output_dir.display(),
        process(*pid)
    )]
    OutputDirInUse {
        /// The output folder.
        output_dir: PathBuf,
        /// The process, if it is known.
        pid: Option<u32>,
    },
    /// The folder cannot be written.
    #[error(
        "output_dir {} cannot be written: {source}; choose another output_dir, or change its permissions",
        output_dir.display()
    )]
    OutputDir {
        /// The output folder.
        output_dir: PathBuf,
        /// Error from the operating system.
        source: std::io::Error,
    },
    /// A checkpoint or result that this run does not continue.
    #[error("cannot resume from {}: {problem}", folder.display())]
    Resume {
        /// The checkpoint, or the folder of a finished run.
        folder: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The weights are in 4 bits, and there is no adapter to train instead of them.
    #[error(
        "the weights of {} are in 4 bits (nf4), which cannot be trained themselves: add an [adapter] section, or set \
         model.path to the weights that they were quantised from",
        folder.display()
    )]
    QuantizedWeights {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A TorchScript module, of which only libtorch knows the shapes.
    #[error(
        "model.torchscript is a program, of which memory and time cannot be counted before it runs: plan a run with the \
             model's own weights"
    )]
    NotPlanned,
    /// A λ-adapter whose dimensions are only in the records.
    #[error("data.dimensions is missing: without records, the dimensions of a λ-adapter must be in the config")]
    DimensionsNotPlanned,
    /// No samples to train or evaluate on.
    #[error("no sample is left of {key} ({counts}): check data.format, data.dimensions and data.exclude_sources")]
    NoSamples {
        /// The key in the config.
        key: &'static str,
        /// How many records there were, and why they were skipped.
        counts: String,
    },
    /// No sample is left to train on, because the only one is held out.
    #[error(
        "data.eval_fraction = {fraction} holds out the only sample of data.records for evaluation, so that none is left to \
         train on: leave it out, or add records"
    )]
    NothingToTrainOn {
        /// `data.eval_fraction`.
        fraction: f64,
    },
    /// A loss or gradient that is not a finite number; it has not changed any weight.
    #[error(
        "the {what} is {value} at step {step}, so the run stopped before that update; its records were {}; {}; lower \
         train.learning_rate or check these records",
        list(records),
        last_checkpoint(checkpoint.as_deref())
    )]
    NotFinite {
        /// `loss` or `gradient`.
        what: &'static str,
        /// NaN or ±∞.
        value: f64,
        /// The step that was not completed, counted from 1.
        step: u64,
        /// Indices of its records in the concatenated record files.
        records: Vec<i64>,
        /// The last checkpoint of the run.
        checkpoint: Option<PathBuf>,
    },
    /// The loss of an evaluation is not a finite number.
    #[error(
        "the evaluation loss is {value} after step {step}, in a batch of the records {}; {}; check these records, lower \
         train.learning_rate, or check the weights of the model",
        list(records),
        last_checkpoint(checkpoint.as_deref())
    )]
    EvaluationNotFinite {
        /// NaN or ±∞.
        value: f64,
        /// The step after which it was evaluated.
        step: u64,
        /// Indices of the records of the batch in the concatenated files that are evaluated on.
        records: Vec<i64>,
        /// The last checkpoint of the run.
        checkpoint: Option<PathBuf>,
    },
    /// An update has left a weight that is not a finite number, and nothing is saved.
    #[error(
        "the weight `{name}` is not a finite number after step {step}, so it is not saved; {}; lower train.learning_rate",
        last_checkpoint(checkpoint.as_deref())
    )]
    WeightNotFinite {
        /// The weight.
        name: String,
        /// The step after which it was to be saved.
        step: u64,
        /// The last checkpoint of the run.
        checkpoint: Option<PathBuf>,
    },
    /// A reference log-prob that is not a finite number.
    #[error(
        "the reference log-prob of response {response} of record {record} is {value}: check the weights of the reference \
         policy, and this record"
    )]
    ReferenceNotFinite {
        /// Index of the record in the concatenated files.
        record: u64,
        /// Number of the response in the record.
        response: usize,
        /// NaN or ±∞.
        value: f64,
    },
    /// A reference policy that differs from the model it should equal.
    #[error(
        "the reference {} differs from the weights of {} by up to {found:.1e} in a token's log-prob (record {record}; {tolerance:e} is \
         allowed): export it again, or set reference.validate = false if it is a different policy on purpose",
        path.display(),
        model.display()
    )]
    Reference {
        /// The reference's file.
        path: PathBuf,
        /// Largest difference of a token's log-prob.
        found: f64,
        /// Largest difference allowed.
        tolerance: f64,
        /// The record with that token.
        record: u64,
        /// The folder of the weights.
        model: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Error from the operating system.
        source: std::io::Error,
    },
    /// The cache of reference log-probs cannot be written.
    #[error("{} cannot be written: {source}; set LAMBDA_DPO_CACHE to another folder, or reference.cache = false", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// Error from the operating system.
        source: std::io::Error,
    },
    /// Error in the config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model or dataset that is not found.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Record files that cannot be read.
    #[error(transparent)]
    RecordFiles(#[from] RecordFilesError),
    /// Error from the device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Error from the plugin.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// Error from the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Error from an ONNX or TorchScript policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Error in a tensor file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// A file that could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Error from libtorch.
    #[error("libtorch: {}", .0.to_string().lines().next().unwrap_or_default())]
    Torch(#[from] tch::TchError),
    /// Error from the operating system.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl TrainError {
    /// Adds the last checkpoint to the errors of a value that is not finite.
    pub(super) fn with_checkpoint(mut self, folder: Option<&PathBuf>) -> Self {
        if let Self::NotFinite { checkpoint, .. }
        | Self::EvaluationNotFinite { checkpoint, .. }
        | Self::WeightNotFinite { checkpoint, .. } = &mut self
        {
            *checkpoint = folder.cloned();
        }
        self
    }

    /// Names the output folder in the error of its lock.
    pub(super) fn of_lock(output_dir: &Path, error: LockError) -> Self {
        let output_dir = output_dir.to_path_buf();
        match error {
            LockError::Held { pid } => Self::OutputDirInUse { output_dir, pid },
            LockError::Io(source) => Self::OutputDir { output_dir, source },
        }
    }
}

fn last_checkpoint(folder: Option<&Path>) -> String {
    folder.map_or_else(
        || "no checkpoint has been saved".to_owned(),
        |folder| format!("the last checkpoint is {}", folder.display()),
    )
}

fn list(records: &[i64]) -> String {
    const SHOWN: usize = 64;
    let mut text: Vec<String> = records.iter().take(SHOWN).map(i64::to_string).collect();
    if records.len() > SHOWN {
        text.push(format!("… ({} in all)", records.len()));
    }
    text.join(", ")
}
