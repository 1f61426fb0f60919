//! An evaluation on disk: `evaluation.json`, `answers.jsonl` and the page.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::files::atomic;
use crate::files::report_folder::ReportFolder;

use super::answer_line::AnswerLine;
use super::evaluation::Evaluation;
use super::page;

const FILE: &str = "evaluation.json";
const ANSWERS: &str = "answers.jsonl";
const PAGE: &str = "index.html";

/// Names of the files of an evaluation.
pub const FILES: [&str; 3] = [FILE, ANSWERS, PAGE];

/// Writes an evaluation into its folder, whole or not at all, and returns the path of its page.
///
/// # Errors
///
/// Returns an error if the folder cannot be written.
pub fn write(folder: ReportFolder, evaluation: &Evaluation, answers: &[AnswerLine]) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(evaluation)?;
    let lines = answers.iter().map(|answer| Ok(format!("{}\n", serde_json::to_string(answer)?)));
    let lines = lines.collect::<Result<String>>()?;
    let page = page::html(evaluation, answers).map_err(anyhow::Error::msg)?;
    for (name, text) in [(FILE, format!("{json}\n")), (ANSWERS, lines), (PAGE, page)] {
        atomic::write(&folder.path().join(name), text.as_bytes())?;
    }
    Ok(folder.commit()?.join(PAGE))
}

/// Reads the evaluation in a folder.
///
/// # Errors
///
/// Returns an error if the folder has no evaluation.
pub fn read(folder: &Path) -> Result<Evaluation> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read: pass a folder written by `evaluate --out`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not an evaluation of `evaluate`", path.display()))
}
