//! The report's folder: `steer.json` and the page.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::files::atomic;

use super::page;
use super::report::{Compared, Report};

const FILE: &str = "steer.json";
const PAGE: &str = "index.html";

/// Writes the report's folder, whole or not at all; gives the page's path.
///
/// # Errors
///
/// The disk refuses.
pub fn write(folder: &Path, report: &Report, compared: &[Compared]) -> Result<PathBuf> {
    let page = page::html(report, compared).map_err(anyhow::Error::msg)?;
    let parts = atomic::Folder::create(folder)?;
    let json = serde_json::to_string_pretty(report)?;
    atomic::write(&parts.path().join(FILE), format!("{json}\n").as_bytes())?;
    atomic::write(&parts.path().join(PAGE), page.as_bytes())?;
    parts.commit()?;
    Ok(folder.join(PAGE))
}

/// A report that was written into a folder before.
///
/// # Errors
///
/// The folder holds none.
pub fn read(folder: &Path) -> Result<Report> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read: give a folder that `steer --out` wrote", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no control report", path.display()))
}
