//! A control report on disk: `steer.json` and the page.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::files::atomic;
use crate::files::regular;
use crate::files::report_folder::ReportFolder;
use crate::metrics::present_name;

use super::page;
use super::report::{ControlReport, NamedReport};

const FILE: &str = "steer.json";
const PAGE: &str = "index.html";

/// Names of the files of a control report.
pub const FILES: [&str; 2] = [FILE, PAGE];

/// Writes a report into its folder, whole or not at all, and returns the path of its page.
///
/// # Errors
///
/// Returns an error if the folder cannot be written.
pub fn write(folder: ReportFolder, report: &ControlReport, others: &[NamedReport]) -> Result<PathBuf> {
    let page = page::html(report, others).map_err(anyhow::Error::msg)?;
    let json = serde_json::to_string_pretty(report)?;
    atomic::write(&folder.path().join(FILE), format!("{json}\n").as_bytes())?;
    atomic::write(&folder.path().join(PAGE), page.as_bytes())?;
    Ok(folder.commit()?.join(PAGE))
}

/// Reads the report in a folder; metrics of an earlier version get their present names.
///
/// # Errors
///
/// Returns an error if the folder has no report.
pub fn read(folder: &Path) -> Result<ControlReport> {
    let path = folder.join(FILE);
    let text = regular::read_to_string(&path)
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
