//! The report, as `report.json` holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;

use crate::evaluate::figure::{Figure, Section};
use crate::evaluate::figures::Measured;

use super::group::{Group, group};
use super::metrics::Metrics;
use super::run::Run;
use super::spread::Spread;

/// Several runs side by side.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// The figures that were measured of any run, in the order of tables.
    pub figures: Vec<Figure>,
    /// The rows of the tables.
    pub rows: Vec<Row>,
    /// What a reader should know, a sentence each.
    pub notes: Vec<String>,
}

/// A row: a run, or several that differ only by seed.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its runs.
    pub runs: Vec<RunEntry>,
    /// What was measured, by the keys of the figures.
    pub figures: BTreeMap<String, Spread>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RunEntry {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Seed of the training; None if it is not known.
    pub seed: Option<u64>,
}

impl Row {
    /// Its name, with the number of its runs if there are several.
    #[must_use]
    pub fn title(&self) -> String {
        match self.runs.len() {
            1 => self.name.clone(),
            count if self.runs.iter().all(|run| run.seed.is_some()) => format!("{} ({count} seeds)", self.name),
            count => format!("{} ({count} runs)", self.name),
        }
    }
}

impl Report {
    /// Returns the figures of a section.
    pub(super) fn section(&self, section: Section) -> Vec<&Figure> {
        self.figures.iter().filter(|figure| figure.section == section).collect()
    }

    /// Returns the rows that have any of these figures.
    pub(super) fn rows_with(&self, figures: &[&Figure]) -> Vec<&Row> {
        let has_any = |row: &&Row| figures.iter().any(|figure| row.figures.contains_key(&figure.key));
        self.rows.iter().filter(has_any).collect()
    }

    /// Whether any row is a mean over runs.
    pub(super) fn has_spread(&self) -> bool {
        self.rows.iter().any(|row| row.runs.len() > 1)
    }
}

/// A report, and the logs that its curves are drawn from.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The report.
    pub report: Report,
    /// The log of each run, row by row.
    pub(super) logs: Vec<Vec<Metrics>>,
}

/// Reads runs, given as RUN or NAME=RUN, and puts them side by side.
///
/// # Errors
///
/// Returns an error if a folder is no run, a file of it does not parse, or a row has runs that cannot be averaged.
pub fn compare(arguments: &[String]) -> Result<Comparison> {
    let runs = arguments.iter().map(|argument| Run::read(argument)).collect::<Result<Vec<_>>>()?;
    let (names, groups) = group(&runs)?;
    let measured: Vec<Vec<Measured>> = runs.iter().map(Run::figures).collect();
    let figures = figures(&measured);
    let mut notes = Vec::new();
    for (name, run) in names.iter().zip(&runs) {
        notes.extend(run.notes.iter().map(|note| format!("{name}: {note}.")));
    }
    let row = |Group { name, runs: members }: &Group| {
        let entry = |&index: &usize| RunEntry {
            name: names[index].clone(),
            folder: runs[index].folder.clone(),
            seed: runs[index].seed,
        };
        let spread = |figure: &Figure| {
            let of_run = |&index: &usize| {
                let found = measured[index].iter().find(|measured| measured.figure.key == figure.key)?;
                Some((found.value, found.stderr))
            };
            let values: Vec<_> = members.iter().map(of_run).collect();
            Some((figure.key.clone(), Spread::of(&values)?))
        };
        Row {
            name: name.clone(),
            runs: members.iter().map(entry).collect(),
            figures: figures.iter().filter_map(spread).collect(),
        }
    };
    let rows: Vec<Row> = groups.iter().map(row).collect();
    notes.extend(differences(&runs, &measured, &figures));
    notes.extend(gaps(&rows));
    let logs = groups.iter().map(|group| group.runs.iter().map(|&index| runs[index].metrics.clone()).collect());
    let logs = logs.collect();
    Ok(Comparison { report: Report { figures, rows, notes }, logs })
}

/// Returns the figures that occur, by section, and there in the order in which they first occur.
fn figures(measured: &[Vec<Measured>]) -> Vec<Figure> {
    let mut all: Vec<Figure> = Vec::new();
    for found in measured.iter().flatten() {
        if !all.iter().any(|figure| figure.key == found.figure.key) {
            all.push(found.figure.clone());
        }
    }
    // A stable sort.
    all.sort_by_key(|figure| figure.section);
    all
}

/// Says in what the rows' measurements differ, where that makes their figures hard to compare.
fn differences(runs: &[Run], measured: &[Vec<Measured>], figures: &[Figure]) -> Vec<String> {
    let mut notes = Vec::new();
    let settings: Vec<_> = runs.iter().filter_map(|run| run.evaluation.as_ref()).map(|found| &found.settings).collect();
    let mut differs = |what: &str, values: Vec<String>| {
        let mut distinct: Vec<String> = Vec::new();
        for value in values {
            if !distinct.contains(&value) {
                distinct.push(value);
            }
        }
        if distinct.len() > 1 {
            notes.push(format!("The evaluations differ in {what}: {}.", distinct.join("; ")));
        }
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    differs("their dimensions", settings.iter().map(|found| found.dimensions.join(", ")).collect());
    differs("λ of loss and accuracy", settings.iter().map(|found| format!("{:?}", found.lambda)).collect());
    differs("β", settings.iter().map(|found| found.beta.to_string()).collect());
    differs("the number of records", settings.iter().map(|found| found.num_records.to_string()).collect());
    let answers = |found: &&crate::evaluate::evaluation::Settings| {
        format!("{} × {}, temperature {}", found.num_prompts, found.num_samples, found.temperature)
    };
    differs("their answers", settings.iter().map(answers).collect());
    differs("their judge", settings.iter().map(|found| text(&found.judge)).collect());
    differs("what answers are compared with", settings.iter().map(|found| text(&found.against)).collect());
    // A benchmark says in its meaning how it was measured.
    for figure in figures.iter().filter(|figure| figure.section == Section::Benchmarks) {
        let of_task = measured.iter().flatten().filter(|found| found.figure.key == figure.key);
        if let Some(other) = of_task.map(|found| &found.figure.meaning).find(|meaning| **meaning != figure.meaning) {
            notes.push(format!("{} was measured in different ways: {} {other}", figure.title, figure.meaning));
        }
    }
    notes
}

/// Says where a mean is over fewer runs than its row has.
fn gaps(rows: &[Row]) -> Vec<String> {
    let mut notes = Vec::new();
    for row in rows {
        let known = |spread: &Spread| spread.values.iter().flatten().count();
        let least = row.figures.values().map(known).min().unwrap_or(0);
        if least < row.runs.len() {
            notes.push(format!("{}: some figures are of only {least} of its {} runs.", row.name, row.runs.len()));
        }
    }
    notes
}
