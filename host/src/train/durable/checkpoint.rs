//! `checkpoint-<step>/`: everything that a run needs to continue as if it had never stopped.
//!
//! A checkpoint has the model in Hugging Face's format or the adapter in PEFT's, `optimizer.safetensors` and
//! `trainer_state.json`. It appears whole or not at all, and only then are older ones removed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::RunConfig;
use crate::files::{atomic, regular, safetensors};
use crate::libtorch;
use crate::train::TrainError;
use crate::train::optimizer::AdamW;

/// Name of the file that a finished run leaves in its output folder.
pub const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
/// More threads of an operation than any machine is given; libtorch would try to start them.
const MAX_THREADS: i32 = 1024;

/// Names of the folders of a run's result, a model or an adapter.
pub(super) const RESULT_FOLDERS: [&str; 2] = ["model", "adapter"];

/// Keys that a resumed run may change, because the result does not depend on them.
const FREE_KEYS: &[&str] = &[
    "output_dir",
    "model.device",
    "reference.cache",
    "reference.validate",
    "data.eval_records",
    "loss.logits_budget_mib",
    "train.gradient_checkpointing",
    "train.deterministic",
    "train.logging_steps",
    "train.save_steps",
    "train.save_total_limit",
    "train.eval_steps",
    "train.resume",
];

/// Content of `trainer_state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimiser steps done.
    pub global_step: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Steps done in the current epoch.
    pub step_in_epoch: u64,
    /// Threads of each libtorch operation; with another number, sums differ in their last bits.
    pub num_threads: i32,
    /// Seed of data order, λ and dropout. They are functions of it and the step, so no generator's state is saved.
    pub seed: u64,
    /// Hash of the training samples, including their targets.
    pub data_hash: String,
    /// The config's values that the result depends on, by dotted key.
    pub settings: serde_json::Map<String, Value>,
}

impl TrainerState {
    /// Returns the state before the first step, or at `checkpoint`.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::Resume`] if the checkpoint belongs to a run with other settings or data.
    pub fn start(
        config: &RunConfig,
        data_hash: &str,
        max_steps: u64,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, TrainError> {
        let settings = settings(&config.absolute()?);
        if let Some(checkpoint) = checkpoint {
            checkpoint.check(&settings, data_hash)?;
        }
        Ok(Self {
            global_step: checkpoint.map_or(0, |checkpoint| checkpoint.state.global_step),
            max_steps,
            epoch: 0.0,
            step_in_epoch: 0,
            num_threads: libtorch::num_threads(),
            seed: config.seed,
            data_hash: data_hash.to_owned(),
            settings,
        })
    }

    /// Reads the state of the finished run in an output folder.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::Resume`] if it cannot be read.
    pub(super) fn of_result(output_dir: &Path) -> Result<Self, TrainError> {
        Self::read(
            output_dir,
            "what this finished run was started with is not known, so start a new run in another output_dir",
        )
    }

    fn read(folder: &Path, way_out: &str) -> Result<Self, TrainError> {
        let refused = |problem: String| TrainError::Resume { folder: folder.to_path_buf(), problem };
        let text = regular::read_to_string(&folder.join(STATE_FILE))
            .map_err(|error| refused(format!("{STATE_FILE} cannot be read ({error}); {way_out}")))?;
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| refused(format!("{STATE_FILE} does not parse ({error}); {way_out}")))?;
        let num_threads = state.num_threads;
        if !(1..=MAX_THREADS).contains(&num_threads) {
            return Err(refused(format!(
                "{STATE_FILE} says that it computed with {num_threads} threads, so it is damaged; {way_out}"
            )));
        }
        Ok(state)
    }

    /// Checks that a run with these settings is the run of this state, whose `folder` the error names.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::Resume`] with the first difference.
    pub(super) fn check_settings(
        &self,
        settings: &serde_json::Map<String, Value>,
        folder: &Path,
    ) -> Result<(), TrainError> {
        for key in settings.keys().chain(self.settings.keys()) {
            let (now, then) = (settings.get(key), self.settings.get(key));
            if now != then {
                let show = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), Value::to_string);
                let problem = format!(
                    "the run was started with {key} {}, but now has {}; set it back, or start a new run in another output_dir",
                    show(then),
                    show(now)
                );
                return Err(TrainError::Resume { folder: folder.to_path_buf(), problem });
            }
        }
        Ok(())
    }

    /// Writes the state of a finished run into its output folder.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn save_result(&self, output_dir: &Path) -> Result<(), TrainError> {
        self.write(output_dir)
    }

    fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let mut text = serde_json::to_string_pretty(self).map_err(std::io::Error::from)?;
        text.push('\n');
        Ok(atomic::write(&folder.join(STATE_FILE), text.as_bytes())?)
    }
}

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The folder.
    pub folder: PathBuf,
    /// Its state.
    pub state: TrainerState,
}

impl Checkpoint {
    /// Reads the state of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder is not a checkpoint.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let state = TrainerState::read(folder, "resume from another checkpoint-<step> folder")?;
        Ok(Self { folder: folder.to_path_buf(), state })
    }

    /// Opens the checkpoint with the highest step in an output folder, if there is one.
    ///
    /// # Errors
    ///
    /// Returns an error if its state cannot be read.
    pub fn latest(output_dir: &Path) -> Result<Option<Self>, TrainError> {
        list(output_dir).pop().map(|(_, folder)| Self::open(&folder)).transpose()
    }

    /// Checks that the checkpoint belongs to a run with these settings and data.
    ///
    /// # Errors
    ///
    /// Returns [`TrainError::Resume`] with the first difference.
    pub fn check(&self, settings: &serde_json::Map<String, Value>, data_hash: &str) -> Result<(), TrainError> {
        let refuse = |problem: String| Err(TrainError::Resume { folder: self.folder.clone(), problem });
        self.state.check_settings(settings, &self.folder)?;
        if data_hash != self.state.data_hash {
            return refuse(
                "the records have changed since the run was started; restore them, or start a new run in another output_dir"
                    .into(),
            );
        }
        Ok(())
    }

    /// Loads moments and master weights into an optimiser.
    ///
    /// # Errors
    ///
    /// Returns an error if the file is damaged or belongs to another model.
    pub fn load_optimizer(&self, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let tensors: HashMap<_, _> = safetensors::read(&self.folder.join(OPTIMIZER_FILE))?.into_iter().collect();
        match optimizer.load_state(self.state.global_step, &tensors)? {
            None => Ok(()),
            Some(name) => Err(TrainError::Resume {
                folder: self.folder.clone(),
                problem: format!("{OPTIMIZER_FILE} has no tensor `{name}` that fits; resume from another checkpoint"),
            }),
        }
    }
}

/// Writes `checkpoint-<step>`, in which `save_policy` saves the policy, and then removes the oldest checkpoints beyond
/// `limit`.
///
/// # Errors
///
/// Returns an error if a file cannot be written; no new folder is left then, and no old one removed.
pub fn save(
    output_dir: &Path,
    save_policy: impl FnOnce(&Path) -> Result<(), TrainError>,
    optimizer: &AdamW,
    state: &TrainerState,
    limit: Option<u64>,
) -> Result<PathBuf, TrainError> {
    let target = output_dir.join(format!("{PREFIX}{}", state.global_step));
    let folder = atomic::Folder::create(&target)?;
    save_policy(folder.path())?;
    let tensors = optimizer.state();
    let entries = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&folder.path().join(OPTIMIZER_FILE), entries, &[("format", "pt")])?;
    state.write(folder.path())?;
    folder.commit()?;
    if let Some(limit) = limit {
        let checkpoints = list(output_dir);
        let surplus = checkpoints.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for (_, old) in checkpoints.into_iter().take(surplus) {
            atomic::remove_folder(&old)?;
        }
    }
    Ok(target)
}

/// Lists the checkpoint folders of a run, by step.
pub fn list(output_dir: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(output_dir) else { return Vec::new() };
    let mut checkpoints: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let step = entry.file_name().to_str()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((step, entry.path()))
        })
        .collect();
    checkpoints.sort();
    checkpoints
}

/// Removes what is left of saves that were interrupted, of checkpoints and of the result.
pub fn sweep(output_dir: &Path) {
    let is_checkpoint = |name: &str| name.strip_prefix(PREFIX).is_some_and(|step| step.parse::<u64>().is_ok());
    atomic::sweep(output_dir, |name| is_checkpoint(name) || RESULT_FOLDERS.contains(&name) || name == STATE_FILE);
}

/// Returns the values of the config that a resumed run must not change, by dotted key.
pub fn settings(config: &RunConfig) -> serde_json::Map<String, Value> {
    let mut settings = serde_json::Map::new();
    if let Ok(Value::Object(sections)) = serde_json::to_value(config) {
        for (section, value) in sections {
            match value {
                Value::Object(entries) => {
                    settings.extend(entries.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
                }
                value => {
                    settings.insert(section, value);
                }
            }
        }
    }
    settings.retain(|key, value| !FREE_KEYS.contains(&key.as_str()) && !value.is_null());
    // To text and back, as the saved settings were: numbers may lose their last bit on the way.
    serde_json::to_string(&settings).and_then(|text| serde_json::from_str(&text)).unwrap_or(settings)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn checkpoint(settings: serde_json::Map<String, Value>) -> Checkpoint {
        let state = TrainerState {
            global_step: 10,
            max_steps: 20,
            epoch: 0.5,
            step_in_epoch: 10,
            num_threads: 2,
            seed: 42,
            data_hash: "a".into(),
            settings,
        };
        Checkpoint { folder: "runs/x/checkpoint-10".into(), state }
    }

    #[test]
    fn other_settings_are_refused_by_name() {
        let then: serde_json::Map<_, _> = [("train.learning_rate".to_owned(), 0.001.into())].into_iter().collect();
        let now: serde_json::Map<_, _> = [("train.learning_rate".to_owned(), 0.01.into())].into_iter().collect();
        let checkpoint = checkpoint(then.clone());
        checkpoint.check(&then, "a").unwrap();
        assert_eq!(
            checkpoint.check(&now, "a").unwrap_err().to_string(),
            "cannot resume from runs/x/checkpoint-10: the run was started with train.learning_rate 0.001, but now has \
             0.01; set it back, or start a new run in another output_dir"
        );
        assert!(checkpoint.check(&then, "b").unwrap_err().to_string().contains("the records have changed since"));
    }

    #[test]
    fn checkpoints_are_listed_by_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["checkpoint-100", "checkpoint-20", "checkpoint-x", ".checkpoint-5.partial", "model"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        sweep(folder.path());
        let steps: Vec<u64> = list(folder.path()).into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [20, 100]);
        assert!(!folder.path().join(".checkpoint-5.partial").exists());
    }
}
