//! `checkpoint-<step>/`: everything that a run needs to go on as if it had never stopped.
//!
//! Model or adapter in Hugging Face's or PEFT's form, `optimizer.safetensors`, `trainer_state.json`. A checkpoint appears
//! whole or not at all, and older ones leave only after it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::RunConfig;
use crate::files::atomic;
use crate::files::safetensors;

use crate::train::TrainError;
use crate::train::optimizer::AdamW;

const STATE_FILE: &str = "trainer_state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";

/// Keys that do not change what is computed: a run may be resumed with others.
const FREE_KEYS: &[&str] = &[
    "output_dir",
    "model.device",
    "reference.cache",
    "reference.validate",
    "data.eval_records",
    "loss.logits_budget_mib",
    "train.gradient_checkpointing",
    "train.logging_steps",
    "train.save_steps",
    "train.save_total_limit",
    "train.eval_steps",
    "train.resume",
];

/// What `trainer_state.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Optimiser steps done.
    pub global_step: u64,
    /// Steps of the whole run.
    pub max_steps: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Steps done in the current pass.
    pub step_in_epoch: u64,
    /// Threads that each libtorch operation uses: sums differ between counts, bit for bit.
    pub num_threads: i32,
    /// Of data order, λ and dropout; all are functions of it and the step, so no generator's state is kept.
    pub seed: u64,
    /// Of the training samples, their targets included.
    pub data_hash: String,
    /// The settings that the result depends on, by dotted key.
    pub settings: serde_json::Map<String, Value>,
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
    /// The folder is none.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(STATE_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| TrainError::Resume {
            folder: folder.to_path_buf(),
            problem: format!("{STATE_FILE} cannot be read ({error}); give a checkpoint-<step> folder"),
        })?;
        let state = serde_json::from_str(&text).map_err(|error| TrainError::Resume {
            folder: folder.to_path_buf(),
            problem: format!("{STATE_FILE} does not parse ({error}); resume from another checkpoint"),
        })?;
        Ok(Self { folder: folder.to_path_buf(), state })
    }

    /// The checkpoint of the highest step in a run's folder.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn latest(output_dir: &Path) -> Result<Option<Self>, TrainError> {
        list(output_dir).pop().map(|(_, folder)| Self::open(&folder)).transpose()
    }

    /// Refuses settings or data other than those of the checkpoint's run.
    ///
    /// # Errors
    ///
    /// [`TrainError::Resume`] with the first difference.
    pub fn check(&self, settings: &serde_json::Map<String, Value>, data_hash: &str) -> Result<(), TrainError> {
        let refuse = |problem: String| Err(TrainError::Resume { folder: self.folder.clone(), problem });
        let keys = settings.keys().chain(self.state.settings.keys());
        for key in keys {
            let (now, then) = (settings.get(key), self.state.settings.get(key));
            if now != then {
                let show = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), Value::to_string);
                return refuse(format!(
                    "the run was started with {key} {}, and now has {}; set it back, or start a new run in another output_dir",
                    show(then),
                    show(now)
                ));
            }
        }
        if data_hash != self.state.data_hash {
            return refuse(
                "the records are not those of the run; bring them back, or start a new run in another output_dir"
                    .into(),
            );
        }
        Ok(())
    }

    /// Loads moments and master weights.
    ///
    /// # Errors
    ///
    /// The file is damaged or of another model.
    pub fn load_optimizer(&self, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let tensors: HashMap<_, _> = safetensors::read(&self.folder.join(OPTIMIZER_FILE))?.into_iter().collect();
        match optimizer.load_state(self.state.global_step, &tensors)? {
            None => Ok(()),
            Some(name) => Err(TrainError::Resume {
                folder: self.folder.clone(),
                problem: format!("{OPTIMIZER_FILE} has no fitting tensor `{name}`; resume from another checkpoint"),
            }),
        }
    }
}

/// Writes `checkpoint-<step>`, the policy by `save_policy`, and, once it stands, removes the oldest beyond `limit`.
///
/// # Errors
///
/// The disk refuses; no new folder is left, and no old one removed.
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
    let mut text = serde_json::to_string_pretty(state).map_err(std::io::Error::from)?;
    text.push('\n');
    atomic::write(&folder.path().join(STATE_FILE), text.as_bytes())?;
    folder.commit()?;
    if let Some(limit) = limit {
        let checkpoints = list(output_dir);
        let surplus = checkpoints.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for (step, old) in checkpoints.into_iter().take(surplus) {
            // Out of sight first: half of a checkpoint must not look like one.
            let hidden = output_dir.join(format!(".{PREFIX}{step}.old"));
            std::fs::rename(&old, &hidden)?;
            std::fs::remove_dir_all(&hidden)?;
        }
    }
    Ok(target)
}

/// Checkpoint folders of a run, by step.
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

/// Removes what a kill in the middle of a save left behind.
pub fn sweep(output_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(output_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_leftover = name.to_str().is_some_and(|name| name.starts_with(&format!(".{PREFIX}")));
        if is_leftover {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The settings that a resumed run must share, by dotted key.
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
    // Through text once, as the saved ones went: numbers may lose their last bit on the way.
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
            "cannot resume from runs/x/checkpoint-10: the run was started with train.learning_rate 0.001, and now has \
             0.01; set it back, or start a new run in another output_dir"
        );
        assert!(checkpoint.check(&then, "b").unwrap_err().to_string().contains("the records are not those of the run"));
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
