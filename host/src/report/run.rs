//! Everything that a run's folder holds.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::config::RunConfig;
use crate::evaluate::Evaluation;
use crate::evaluate::evaluation::RunFigures;
use crate::evaluate::figures::{Measured, cost, figures};
use crate::files::regular;
use crate::train::durable::checkpoint::{STATE_FILE, settings};

use super::benchmarks::Benchmarks;
use super::metrics::{self, Metrics};

/// A run or an evaluation, as named on the command line.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// From NAME=RUN.
    pub(super) given_name: Option<String>,
    pub(super) folder: PathBuf,
    /// What the training depends on, by dotted key, without the seed; None without `run.toml`.
    pub(super) settings: Option<Map<String, Value>>,
    /// Seed of the training.
    pub(super) seed: Option<u64>,
    /// Empty if the folder only holds an evaluation.
    pub(super) metrics: Metrics,
    pub(super) evaluation: Option<Evaluation>,
    benchmarks: Option<Benchmarks>,
    /// What the training cost; None without a log of its steps.
    cost: Option<RunFigures>,
    /// What a reader should know of the run.
    pub(super) notes: Vec<String>,
}

impl Run {
    /// Reads a run from the argument RUN or NAME=RUN.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder holds neither metrics nor an evaluation, or a file of it does not parse.
    pub(super) fn read(argument: &str) -> Result<Self> {
        let (given_name, folder) = split(argument);
        if !folder.is_dir() {
            bail!("{} is no folder: pass one that `train` or `evaluate` wrote", folder.display());
        }
        let mut notes = Vec::new();
        let log = folder.join("metrics.jsonl");
        let metrics = if regular::is_there(&log) { metrics::read(&log)? } else { Metrics::default() };
        let evaluation = read_evaluation(&folder, &mut notes)?;
        if metrics.is_empty() && evaluation.is_none() {
            if log.exists() {
                bail!("{} has no line yet: wait until the run has logged a step", log.display());
            }
            bail!(
                "{} has no metrics.jsonl and no evaluation.json: pass a folder that `train` or `evaluate` wrote",
                folder.display()
            );
        }
        let config = read_config(&folder.join("run.toml"))?;
        let (mut settings, seed) = (config.as_ref().map(settings), config.as_ref().map(|config| config.seed));
        if let Some(settings) = &mut settings {
            settings.remove("seed");
        }
        if metrics.num_replaced > 0 {
            notes.push(format!(
                "of steps that were logged twice, {} in all, the later lines count",
                metrics.num_replaced
            ));
        }
        if log.exists() && !folder.join(STATE_FILE).exists() {
            notes.push("it is not finished: the run goes on, or was stopped".to_owned());
        }
        let benchmarks = Benchmarks::read(&folder.join("benchmarks.json"))?;
        let cost = metrics.cost(&folder);
        Ok(Self { given_name, folder, settings, seed, metrics, evaluation, benchmarks, cost, notes })
    }

    /// Returns all figures that were measured of the run.
    pub(super) fn figures(&self) -> Vec<Measured> {
        let mut all = self.metrics.figures();
        if let Some(evaluation) = &self.evaluation {
            let is_new = |measured: &Measured| self.cost.is_none() || !measured.figure.key.starts_with("run/");
            all.extend(figures(evaluation).into_iter().filter(is_new));
        }
        all.extend(self.cost.iter().flat_map(cost));
        all.extend(self.benchmarks.iter().flat_map(Benchmarks::figures));
        all
    }
}

/// Splits NAME=RUN. A folder may have = in its name too.
fn split(argument: &str) -> (Option<String>, PathBuf) {
    match argument.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !Path::new(argument).exists() => {
            (Some(name.to_owned()), folder.into())
        }
        _ => (None, argument.into()),
    }
}

/// Reads the evaluation in a folder, or in a run's folder `evaluation`.
fn read_evaluation(folder: &Path, notes: &mut Vec<String>) -> Result<Option<Evaluation>> {
    let places = [folder.join("evaluation.json"), folder.join("evaluation/evaluation.json")];
    let Some(path) = places.iter().find(|path| regular::is_there(path)) else { return Ok(None) };
    let text = regular::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let way_out = || format!("{} is no evaluation that this version reads: run `evaluate` again", path.display());
    let found: Value = serde_json::from_str(&text).with_context(way_out)?;
    let evaluation: Evaluation = serde_json::from_value(found.clone()).with_context(way_out)?;
    let unknown = unknown_keys(&found, &serde_json::to_value(&evaluation)?, "");
    if !unknown.is_empty() {
        notes.push(format!("its evaluation has fields of another version, which are left out: {}", unknown.join(", ")));
    }
    Ok(Some(evaluation))
}

/// Returns the keys of `found` that `known` lacks, with their paths.
fn unknown_keys(found: &Value, known: &Value, path: &str) -> Vec<String> {
    let (Value::Object(found), Value::Object(known)) = (found, known) else { return Vec::new() };
    let under = |(key, value): (&String, &Value)| match known.get(key) {
        Some(known) => unknown_keys(value, known, &format!("{path}{key}/")),
        None => vec![format!("{path}{key}")],
    };
    found.iter().flat_map(under).collect()
}

/// Reads the config of a run; None if there is none.
fn read_config(path: &Path) -> Result<Option<RunConfig>> {
    if !regular::is_there(path) {
        return Ok(None);
    }
    let text = regular::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    toml::from_str(&text).map(Some).map_err(|error| {
        let problem = error.message().trim_end();
        anyhow::anyhow!(
            "{} is no run config that this version reads ({problem}): use the version that made the run",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_name_may_stand_before_a_folder() {
        assert_eq!(split("uniform=runs/a"), (Some("uniform".into()), "runs/a".into()));
        assert_eq!(split("runs/a"), (None, "runs/a".into()));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("beta=0.1");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(split(&odd.display().to_string()), (None, odd));
    }

    #[test]
    fn unknown_keys_are_found_at_any_depth() {
        let found = serde_json::json!({"a": {"b": 1, "c": 2}, "d": {"e": 1}, "f": 1});
        let known = serde_json::json!({"a": {"b": 1}, "f": null});
        assert_eq!(unknown_keys(&found, &known, ""), ["a/c", "d"]);
    }
}
