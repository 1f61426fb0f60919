//! `report.json` and `report.html` on disk.

use std::path::PathBuf;

use anyhow::Result;

use crate::files::atomic;
use crate::files::report_folder::ReportFolder;

use super::comparison::Comparison;
use super::page;

const FILE: &str = "report.json";
const PAGE: &str = "report.html";

/// Names of the files of a report.
pub const FILES: [&str; 2] = [FILE, PAGE];

/// Writes a report into its folder, whole or not at all, and returns the path of its page.
///
/// # Errors
///
/// Returns an error if the folder cannot be written.
pub fn write(folder: ReportFolder, comparison: &Comparison) -> Result<PathBuf> {
    let page = page::html(comparison).map_err(anyhow::Error::msg)?;
    let json = serde_json::to_string_pretty(&comparison.report)?;
    atomic::write(&folder.path().join(FILE), format!("{json}\n").as_bytes())?;
    atomic::write(&folder.path().join(PAGE), page.as_bytes())?;
    Ok(folder.commit()?.join(PAGE))
}
