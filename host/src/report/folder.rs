//! `report.json` and `report.html` on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::files::atomic;

use super::comparison::Comparison;
use super::page;

const FILE: &str = "report.json";
const PAGE: &str = "report.html";

/// The folder of a report that is being made.
#[derive(Debug)]
pub struct ReportFolder {
    target: PathBuf,
    parts: atomic::Folder,
}

impl ReportFolder {
    /// Begins the folder.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be written, another process is writing it, or it holds anything but an earlier
    /// report, which the new one replaces.
    pub fn begin(target: &Path) -> Result<Self> {
        let parts = atomic::Folder::create(target)?;
        for entry in std::fs::read_dir(target).into_iter().flatten() {
            let name = entry.with_context(|| format!("{} cannot be read", target.display()))?.file_name();
            ensure!(
                name == FILE || name == PAGE,
                "{} holds {}, which is no part of a report: choose another folder for --out",
                target.display(),
                name.display()
            );
        }
        Ok(Self { target: target.to_path_buf(), parts })
    }

    /// Writes the report, whole or not at all, and returns the path of its page.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be written.
    pub fn write(self, comparison: &Comparison) -> Result<PathBuf> {
        let page = page::html(comparison).map_err(anyhow::Error::msg)?;
        let json = serde_json::to_string_pretty(&comparison.report)?;
        atomic::write(&self.parts.path().join(FILE), format!("{json}\n").as_bytes())?;
        atomic::write(&self.parts.path().join(PAGE), page.as_bytes())?;
        self.parts.commit()?;
        Ok(self.target.join(PAGE))
    }
}
