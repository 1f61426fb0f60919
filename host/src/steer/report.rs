//! What was measured: `steer.json`, and the tables that a terminal shows.

use std::fmt::Write as _;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::generate::GenerateOptions;
use crate::metrics::Row;
use crate::plugin::LossOptions;

use super::rater::Rater;

/// What was measured, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The model's folder.
    pub model: PathBuf,
    /// The adapter's.
    pub adapter: Option<PathBuf>,
    /// The specialists that are mixed, by dimension; empty where none are.
    pub soup: IndexMap<String, PathBuf>,
}

/// How texts were generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// What scored them.
    pub rater: String,
    /// At each λ.
    pub num_prompts: usize,
    /// Answers to each prompt.
    pub num_samples: usize,
    /// Tokens at most.
    pub max_new_tokens: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// Share of the mass that is sampled from.
    pub top_p: f64,
    /// Of the sampling.
    pub seed: u64,
}

impl Generation {
    /// Of a rater and options.
    pub fn new(rater: &Rater, num_prompts: usize, num_samples: usize, options: &GenerateOptions) -> Self {
        let GenerateOptions { max_new_tokens, temperature, top_p, seed, .. } = *options;
        Self { rater: rater.command().to_owned(), num_prompts, num_samples, max_new_tokens, temperature, top_p, seed }
    }
}

/// Everything at one λ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// `[M]`
    pub lambda: Vec<f64>,
    /// Means over held-out records: `expected_rating/<dimension>`, and the fields of an evaluation in `metrics.jsonl`
    /// (`eval_loss`, `eval_rewards/accuracies`, `eval_kl`, …).
    pub held_out: Row,
    /// Means over generated texts: `score/<name>` of the rater's, `num_tokens`; absent without a rater.
    pub generated: Option<Row>,
}

/// A control report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub subject: Subject,
    /// M names.
    pub dimensions: Vec<String>,
    /// β of the listwise distribution.
    pub beta: f64,
    /// `sum` or `mean`.
    pub reduction: String,
    /// Records that were measured.
    pub num_records: usize,
    /// How texts were generated; absent without a rater.
    pub generation: Option<Generation>,
    /// The grid.
    pub points: Vec<Point>,
    /// For each dimension k the points with λ_k from 0 to 1 and the rest equal; a single one where λ changes nothing.
    pub curves: Vec<Vec<usize>>,
}

/// An earlier report, and what it is called here.
pub struct Compared {
    /// Its name.
    pub name: String,
    /// What it measured.
    pub report: Report,
}

/// A figure that λ is to control, one for each dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    /// Mean score of generated text.
    Score,
    /// Expected rating on held-out records.
    Rating,
}

impl Figure {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Score => "mean score of generated text",
            Self::Rating => "expected rating on held-out records",
        }
    }
}

impl Report {
    pub(super) fn new(
        subject: Subject,
        dimensions: &[String],
        loss: &LossOptions,
        generation: Option<Generation>,
        num_records: usize,
        points: Vec<Point>,
        curves: Vec<Vec<usize>>,
    ) -> Self {
        let (dimensions, reduction) = (dimensions.to_vec(), loss.reduction.to_string());
        Self { subject, dimensions, beta: loss.beta, reduction, num_records, generation, points, curves }
    }

    /// A figure of a dimension at a point.
    pub(super) fn at(&self, point: usize, figure: Figure, dimension: &str) -> Option<f64> {
        let point = self.points.get(point)?;
        match figure {
            Figure::Score => point.generated.as_ref()?.get(&format!("score/{dimension}"))?.as_f64(),
            Figure::Rating => point.held_out.get(&format!("expected_rating/{dimension}"))?.as_f64(),
        }
    }

    /// (λ_k, figure) along the curve of a dimension; one that λ does not change is level. Empty where it was not measured.
    pub(super) fn curve(&self, figure: Figure, dimension: &str) -> Vec<(f64, f64)> {
        let Some(k) = self.dimensions.iter().position(|name| name == dimension) else { return Vec::new() };
        let curve = &self.curves[k];
        if let [only] = curve.as_slice() {
            let value = self.at(*only, figure, dimension);
            return value.map_or_else(Vec::new, |value| vec![(0.0, value), (1.0, value)]);
        }
        let point = |&point: &usize| Some((self.points[point].lambda[k], self.at(point, figure, dimension)?));
        curve.iter().filter_map(point).collect()
    }

    /// The figure at λ_k = 1 less that at λ_k = 0 with the rest equal.
    pub(super) fn range(&self, figure: Figure, dimension: &str) -> Option<f64> {
        let curve = self.curve(figure, dimension);
        Some(curve.last()?.1 - curve.first()?.1)
    }

    /// The figure at a dimension's own corner less its mean at the others': of a soup, at the corners of which the specialists
    /// stand, how far these differ.
    pub(super) fn corner_range(&self, figure: Figure, dimension: &str) -> Option<f64> {
        let own = self.dimensions.iter().position(|name| name == dimension)?;
        let corner = |k: usize| self.at(*self.curves[k].last()?, figure, dimension);
        let others: Vec<f64> = (0..self.curves.len()).filter(|k| *k != own).map(corner).collect::<Option<_>>()?;
        let mean = others.iter().sum::<f64>() / others.len() as f64;
        (!others.is_empty()).then_some(corner(own)? - mean)
    }

    fn changes(&self) -> bool {
        self.points.len() > 1
    }

    /// The figures that there are.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let has = |figure: &Figure| self.dimensions.iter().any(|name| self.at(0, *figure, name).is_some());
        [Figure::Score, Figure::Rating].into_iter().filter(has).collect()
    }

    /// The tables for a terminal: each dimension over its own weight, then the ranges beside those of other reports.
    pub fn table(&self, compared: &[Compared]) -> String {
        let mut text = String::new();
        let width = self.dimensions.iter().map(String::len).max().unwrap_or(0).max("reward accuracy".len());
        for figure in self.figures() {
            let _ = writeln!(text, "{}", figure.title());
            self.write_curves(&mut text, figure, width);
        }
        self.write_points(&mut text, width);
        for figure in self.figures() {
            let columns = range_columns(self, compared, figure);
            if columns.len() > 1 {
                write_ranges(&mut text, figure, &self.dimensions, &columns, width);
            }
        }
        text
    }

    fn write_curves(&self, text: &mut String, figure: Figure, width: usize) {
        if !self.changes() {
            let _ = writeln!(text, "  {:width$}  {:>8}", "", "any λ");
            for name in &self.dimensions {
                if let Some((_, value)) = self.curve(figure, name).first() {
                    let _ = writeln!(text, "  {name:width$}  {value:8.3}");
                }
            }
            text.push('\n');
            return;
        }
        let steps: Vec<f64> = self.curves[0].iter().map(|&point| self.points[point].lambda[0]).collect();
        let _ = write!(text, "  {:width$}", "its own λ =");
        for step in steps {
            let _ = write!(text, "  {step:8.2}");
        }
        let _ = writeln!(text, "  {:>8}", "range");
        for name in &self.dimensions {
            let curve = self.curve(figure, name);
            let _ = write!(text, "  {name:width$}");
            for (_, value) in &curve {
                let _ = write!(text, "  {value:8.3}");
            }
            let rises = curve.windows(2).all(|pair| pair[1].1 > pair[0].1);
            let note = if rises { "" } else { "  does not rise throughout" };
            let _ = writeln!(text, "  {:8.3}{note}", self.range(figure, name).unwrap_or(f64::NAN));
        }
        text.push('\n');
    }

    /// Reward accuracy and KL at the corners and at uniform λ.
    fn write_points(&self, text: &mut String, width: usize) {
        let mut rows: Vec<(&str, usize)> = Vec::new();
        for (name, curve) in self.dimensions.iter().zip(&self.curves) {
            if let (true, Some(&corner)) = (self.changes(), curve.last()) {
                rows.push((name, corner));
            }
        }
        let is_level = |point: &Point| point.lambda.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 1e-9);
        rows.extend(self.points.iter().position(is_level).map(|point| ("all alike", point)));
        let _ = writeln!(text, "held-out records\n  {:width$}  {:>15}  {:>8}", "λ on", "reward accuracy", "KL");
        for (name, point) in rows {
            let value = |key: &str| self.points[point].held_out.get(key).and_then(serde_json::Value::as_f64);
            let (accuracy, kl) = (value("eval_rewards/accuracies"), value("eval_kl"));
            let (accuracy, kl) = (accuracy.unwrap_or(f64::NAN), kl.unwrap_or(f64::NAN));
            let _ = writeln!(text, "  {name:width$}  {accuracy:15.3}  {kl:8.3}");
        }
        text.push('\n');
    }
}

/// A column of ranges, one for each dimension.
pub(super) struct RangeColumn {
    pub(super) title: String,
    pub(super) ranges: Vec<Option<f64>>,
}

/// This report's ranges and those of others; of a soup also its specialists'.
pub(super) fn range_columns(report: &Report, compared: &[Compared], figure: Figure) -> Vec<RangeColumn> {
    let of = |title: &str, report_of: &Report, range: fn(&Report, Figure, &str) -> Option<f64>| RangeColumn {
        title: title.to_owned(),
        ranges: report.dimensions.iter().map(|name| range(report_of, figure, name)).collect(),
    };
    let mut columns = vec![of("this", report, Report::range)];
    for Compared { name, report } in compared {
        if !report.subject.soup.is_empty() {
            columns.push(of("specialists", report, Report::corner_range));
        }
        columns.push(of(name, report, Report::range));
    }
    columns
}

/// The mean of a column over the dimensions that it has.
pub(super) fn mean(ranges: &[Option<f64>]) -> f64 {
    let known: Vec<f64> = ranges.iter().flatten().copied().collect();
    known.iter().sum::<f64>() / known.len() as f64
}

fn write_ranges(text: &mut String, figure: Figure, dimensions: &[String], columns: &[RangeColumn], width: usize) {
    let _ = write!(text, "range of the {}\n  {:width$}", figure.title(), "");
    for column in columns {
        let _ = write!(text, "  {:>13}", column.title);
    }
    let has_specialists = columns.get(1).is_some_and(|column| column.title == "specialists");
    let _ = writeln!(text, "{}", if has_specialists { "  this / specialists" } else { "" });
    let mut write_row = |name: &str, values: &[f64]| {
        let _ = write!(text, "  {name:width$}");
        for value in values {
            let _ = write!(text, "  {value:13.3}");
        }
        let share = if has_specialists { format!("  {:17.0} %", 100.0 * values[0] / values[1]) } else { String::new() };
        let _ = writeln!(text, "{share}");
    };
    for (place, name) in dimensions.iter().enumerate() {
        let row: Vec<f64> = columns.iter().map(|column| column.ranges[place].unwrap_or(f64::NAN)).collect();
        write_row(name, &row);
    }
    let means: Vec<f64> = columns.iter().map(|column| mean(&column.ranges)).collect();
    write_row("mean", &means);
    text.push('\n');
}
