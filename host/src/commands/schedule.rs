//! `lambda-dpo schedule fit`: a table of λ whose probabilities follow scores at a few λ.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::cli::{ScheduleArgs, ScheduleCommand, ScheduleFitArgs};
use crate::config::repeated;
use crate::console::say;
use crate::files::atomic::NewFile;
use crate::plugin::Plugin;
use crate::schedule::{self, Anchors, Fit, Metric, Settings, fragment};
use crate::steer;

pub(super) fn run(args: &ScheduleArgs, plugin: Option<&Path>) -> Result<()> {
    match &args.command {
        ScheduleCommand::Fit(args) => fit(args, plugin),
    }
}

fn fit(args: &ScheduleFitArgs, plugin: Option<&Path>) -> Result<()> {
    for (flag, value) in [("ridge", args.ridge), ("temperature", args.temperature)] {
        ensure!(value > 0.0 && value.is_finite(), "--{flag} must be a number above 0, not {value}");
    }
    ensure!(args.num_candidates >= 1, "--num-candidates must be at least 1, not 0");
    let report = report_beside(&args.out)?;
    let (table_file, report_file) = (NewFile::create(&args.out)?, NewFile::create(&report)?);

    let (source, anchors) = anchors(args)?;
    let candidates = match &args.candidates {
        Some(file) => schedule::read(file, &anchors.dimensions)?,
        None => {
            let plugin = Plugin::load(plugin)?;
            schedule::draw(&plugin, anchors.dimensions.len(), args.num_candidates, args.seed)?
        }
    };
    let fit = Fit::new(&anchors, &candidates, settings(args)).with_context(|| source.display().to_string())?;

    let json = serde_json::to_string_pretty(&fit)?;
    let name = report.file_name().unwrap_or_default().to_string_lossy();
    report_file.fill(|file| writeln!(file, "{json}"))?;
    table_file.fill(|file| file.write_all(fragment(&fit, &name).as_bytes()))?;
    say(&format!("{}: {}", args.out.display(), fit.describe()));
    Ok(())
}

fn settings(args: &ScheduleFitArgs) -> Settings {
    Settings {
        scores: args.scores.clone(),
        steer: args.steer.clone(),
        metric: args.metric.clone(),
        surrogate: args.surrogate,
        ridge: args.ridge,
        temperature: args.temperature,
        minimize: args.minimize,
        candidates_file: args.candidates.clone(),
        seed: args.candidates.is_none().then_some(args.seed),
    }
}

/// Reads the anchors, and checks that the surrogate can be fitted to them. Returns them with their file or folder.
fn anchors(args: &ScheduleFitArgs) -> Result<(&Path, Anchors)> {
    if let Some(name) = args.dimensions.as_deref().and_then(repeated) {
        bail!("--dimensions names `{name}` twice");
    }
    let (source, anchors) = match (&args.scores, &args.steer) {
        (Some(file), _) => (file, Anchors::read(file, args.dimensions.as_deref())?),
        (None, Some(folder)) => {
            let metric = Metric { name: args.metric.as_deref().unwrap_or_default(), minimize: args.minimize };
            let anchors = Anchors::of_report(&steer::read(folder)?, metric);
            (folder, anchors.with_context(|| folder.display().to_string())?)
        }
        (None, None) => bail!("pass anchors with --scores or --steer"),
    };
    anchors.check(args.surrogate).with_context(|| source.display().to_string())?;
    Ok((source, anchors))
}

/// Returns the path of the report, which replaces nothing but an earlier report.
fn report_beside(out: &Path) -> Result<std::path::PathBuf> {
    let is_toml = out.extension().is_some_and(|extension| extension == "toml");
    ensure!(is_toml, "--out must end in .toml, because a report is written beside it: {} does not", out.display());
    let report = out.with_extension("json");
    let is_report = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        ["surrogate", "coefficients", "candidates"].iter().all(|key| value.get(key).is_some())
    };
    match fs::read_to_string(&report) {
        Ok(text) if is_report(&text) => Ok(report),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(report),
        _ => bail!(
            "{} exists and is no report of `schedule fit`, which would replace it: choose another name for --out",
            report.display()
        ),
    }
}
