//! The output folder, which determines where a run starts.

use std::path::{Path, PathBuf};

use crate::config::RunConfig;
use crate::train::TrainError;

use super::checkpoint::{self, Checkpoint, RESULT_FOLDERS, TrainerState};

/// Where a run starts.
#[derive(Debug)]
pub enum Start {
    /// At its first step.
    Fresh,
    /// After a checkpoint.
    Resume(Box<Checkpoint>),
    /// Not at all: it is finished, with its result in this folder.
    Finished(PathBuf),
}

/// Returns the folder of a run's result.
pub fn result_folder(config: &RunConfig) -> PathBuf {
    let [model, adapter] = RESULT_FOLDERS;
    config.output_dir.join(if config.adapter.is_some() { adapter } else { model })
}

/// Decides where a run starts.
///
/// A folder with checkpoints or a result is never overwritten; one with only logs, of a run that failed early, is.
///
/// # Errors
///
/// Returns [`TrainError::OutputDirTaken`] if the folder holds another run, or [`TrainError::Resume`] if `train.resume`
/// is not a checkpoint, or the folder holds the result of a run with other settings.
pub fn find_start(config: &RunConfig) -> Result<Start, TrainError> {
    let output_dir = &config.output_dir;
    let result = RESULT_FOLDERS.map(|name| output_dir.join(name)).into_iter().find(|folder| folder.exists());
    if config.train.resume == "no" {
        let checkpoints = checkpoint::list(output_dir);
        let found = match checkpoints.last() {
            Some((_, folder)) => Some(folder.clone()),
            None => result,
        };
        let Some(found) = found else { return Ok(Start::Fresh) };
        let found = found.file_name().unwrap_or_default().display().to_string();
        return Err(TrainError::OutputDirTaken { output_dir: output_dir.clone(), found });
    }
    if let Some(result) = result {
        TrainerState::of_result(output_dir)?.check_settings(&checkpoint::settings(&config.absolute()?), &result)?;
        return Ok(Start::Finished(result));
    }
    let checkpoint = match config.train.resume.as_str() {
        "auto" => Checkpoint::latest(output_dir)?,
        folder => Some(Checkpoint::open(Path::new(folder))?),
    };
    Ok(checkpoint.map_or(Start::Fresh, |checkpoint| Start::Resume(Box::new(checkpoint))))
}
