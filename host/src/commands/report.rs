//! `lambda-dpo report`: puts runs side by side.

use std::io::Write as _;

use anyhow::Result;

use crate::cli::ReportArgs;
use crate::console::say;
use crate::report::{ReportFolder, compare, table};

pub(super) fn run(args: &ReportArgs) -> Result<()> {
    let out = args.out.as_deref().map(ReportFolder::begin).transpose()?;
    let comparison = compare(&args.runs)?;
    let page = out.map(|out| out.write(&comparison)).transpose()?;
    std::io::stdout().write_all(table(&comparison.report).as_bytes())?;
    if let Some(page) = page {
        say(&format!("report written to {}", page.display()));
    }
    Ok(())
}
