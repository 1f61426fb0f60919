//! `lambda-dpo report`: puts runs side by side.

use std::io::Write as _;

use anyhow::Result;

use crate::cli::ReportArgs;
use crate::console::say;
use crate::files::report_folder::ReportFolder;
use crate::report::{FILES, compare, table, write};

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let out = args.out.as_deref().map(|out| ReportFolder::begin(out, &FILES)).transpose()?;
    let comparison = compare(&args.runs)?;
    let page = out.map(|out| write(out, &comparison)).transpose()?;
    std::io::stdout().write_all(table(&comparison.report).as_bytes())?;
    if let Some(page) = page {
        say(&format!("report written to {}", page.display()));
    }
    Ok(())
}
