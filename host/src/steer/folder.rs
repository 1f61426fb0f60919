//! A control report on disk: `steer.json` and the page.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::files::atomic;
use crate::metrics::present_name;

use super::page;
use super::report::{ControlReport, NamedReport};

const FILE: &str = "steer.json";
const PAGE: &str = "index.html";

/// The folder of a report that is being measured.
#[derive(Debug)]
pub struct ReportFolder {
    target: PathBuf,
    parts: atomic::Folder,
}

impl ReportFolder {
    /// Begins the folder: what is found out before the measurement is not found out after it.
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
    pub fn write(self, report: &ControlReport, others: &[NamedReport]) -> Result<PathBuf> {
        let page = page::html(report, others).map_err(anyhow::Error::msg)?;
        let json = serde_json::to_string_pretty(report)?;
        atomic::write(&self.parts.path().join(FILE), format!("{json}\n").as_bytes())?;
        atomic::write(&self.parts.path().join(PAGE), page.as_bytes())?;
        self.parts.commit()?;
        Ok(self.target.join(PAGE))
    }
}

/// Reads the report in a folder; metrics of an earlier version get their present names.
///
/// # Errors
///
/// Returns an error if the folder has no report.
pub fn read(folder: &Path) -> Result<ControlReport> {
    let path = folder.join(FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read: pass a folder written by `steer --out`", path.display()))?;
    let mut report: ControlReport = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a control report of `steer`", path.display()))?;
    for point in &mut report.points {
        let held_out = std::mem::take(&mut point.held_out);
        point.held_out = held_out.into_iter().map(|(key, value)| (present_name(&key), value)).collect();
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::steer::tables;

    #[test]
    fn the_log_ratio_of_a_report_of_an_earlier_version_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"{"subject": {"model": "m", "adapter": null, "soup": {}}, "dimensions": ["honesty"], "beta": 0.1,
            "reduction": "sum", "num_records": 1, "generation": null, "curves": [[0]], "points": [
            {"lambda": [1.0], "held_out": {"eval_kl": -1.25, "eval_rewards/accuracies": 0.5}, "generated": null}]}"#;
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let report = read(folder.path()).unwrap();
        let mut other = report.clone();
        other.points[0].held_out.remove("eval_logps/ratio");
        let table = tables(&report, &[NamedReport { name: "other".into(), report: other }]);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows.contains(&vec!["uniform", "0.500", "-1.250"]), "{table}");
        // What was not measured is no number.
        assert!(rows.contains(&vec!["other", "0.500", "–"]) && !table.contains("NaN"), "{table}");
    }
}
