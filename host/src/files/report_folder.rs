//! A folder of files that belong together, such as a report, which a new one replaces.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::atomic::Folder;

/// A report's folder under construction.
#[derive(Debug)]
pub struct ReportFolder {
    target: PathBuf,
    parts: Folder,
}

impl ReportFolder {
    /// Begins the folder, which holds files of these names.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder cannot be written, another process is writing it, or it holds anything but an earlier
    /// report.
    pub fn begin(target: &Path, names: &[&str]) -> Result<Self> {
        let parts = Folder::create(target)?;
        for entry in std::fs::read_dir(target).into_iter().flatten() {
            let name = entry.with_context(|| format!("{} cannot be read", target.display()))?.file_name();
            ensure!(
                names.iter().any(|known| name == **known),
                "{} holds {}, which is no part of a report: choose another folder for --out",
                target.display(),
                name.display()
            );
        }
        Ok(Self { target: target.to_path_buf(), parts })
    }

    /// Returns the folder to write the files to.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.parts.path()
    }

    /// Moves the folder to its target, and returns that.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be moved.
    pub fn commit(self) -> Result<PathBuf> {
        self.parts.commit()?;
        Ok(self.target)
    }
}
