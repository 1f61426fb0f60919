//! The control report: what was measured, as `steer.json` holds it, and what follows from it.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::answers::rater::Rater;
use crate::files::paths::policy_name;
use crate::generate::GenerateOptions;
use crate::metrics::{LOG_RATIO, Row};
use crate::plugin::LossOptions;

/// The policy that was measured, as named on the command line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The model's folder.
    pub model: PathBuf,
    /// The adapter's folder.
    pub adapter: Option<PathBuf>,
    /// Folders of the specialists that are mixed, by dimension; empty without `--soup`.
    pub soup: IndexMap<String, PathBuf>,
}

/// How texts were generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Command that scored them.
    pub rater: String,
    /// Prompts answered at each λ.
    pub num_prompts: usize,
    /// Answers to each prompt.
    pub num_samples: usize,
    /// Tokens of an answer, at most.
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Probability mass that is sampled from.
    pub top_p: f64,
    /// Seed of the sampling.
    pub seed: u64,
}

impl Generation {
    /// Collects the settings of a generation.
    pub fn new(rater: &Rater, num_prompts: usize, num_samples: usize, options: &GenerateOptions) -> Self {
        let GenerateOptions { max_new_tokens, temperature, top_p, seed, .. } = *options;
        Self { rater: rater.command().to_owned(), num_prompts, num_samples, max_new_tokens, temperature, top_p, seed }
    }
}

/// Measurements at one λ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// λ `[M]`
    pub lambda: Vec<f64>,
    /// Means over held-out records: `expected_rating/<dimension>`, and the fields of an evaluation in `metrics.jsonl`
    /// (`eval_loss`, `eval_rewards/accuracies`, `eval_logps/ratio`, …).
    pub held_out: Row,
    /// Means over generated texts: the rater's scores as `score/<name>`, and `num_tokens`; None without a rater.
    pub generated: Option<Row>,
}

/// A control report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlReport {
    /// The policy that was measured.
    pub subject: Subject,
    /// Names of the M dimensions.
    pub dimensions: Vec<String>,
    /// β of the listwise distribution.
    pub beta: f64,
    /// Reduction of token log-probs: `sum` or `mean`.
    pub reduction: String,
    /// Number of held-out records.
    pub num_records: usize,
    /// How texts were generated; None without a rater.
    pub generation: Option<Generation>,
    /// Measurements at each λ of the grid.
    pub points: Vec<Point>,
    /// For each dimension k, the indices of the points with λ_k from 0 to 1 and the rest equal; a single one without a
    /// λ-adapter.
    pub curves: Vec<Vec<usize>>,
}

/// An earlier report to compare with.
pub struct NamedReport {
    /// Name in tables and plots.
    pub name: String,
    /// The report.
    pub report: ControlReport,
}

/// A metric that λ should control, measured in each dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metric {
    /// Mean score of generated text.
    Score,
    /// Expected rating on held-out records.
    Rating,
}

impl Metric {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Score => "mean score of generated text",
            Self::Rating => "expected rating on held-out records",
        }
    }
}

/// What a soup's corners are called in tables: the adapters that it mixes.
pub(super) const SPECIALISTS: &str = "specialists";

impl ControlReport {
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

    /// Returns a name that tells the report from others in tables and plots: that of its adapter, `soup`, or that of its
    /// model.
    pub(super) fn name_beside(&self, others: &[NamedReport]) -> String {
        let own = match &self.subject.adapter {
            Some(adapter) => policy_name(adapter),
            None if !self.subject.soup.is_empty() => "soup".to_owned(),
            None => policy_name(&self.subject.model),
        };
        let is_taken = |name: &str| name == SPECIALISTS || others.iter().any(|other| other.name == name);
        let numbered = (2..).map(|number| format!("{own} ({number})"));
        std::iter::once(own.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(own)
    }

    /// Returns reward accuracy and log-ratio on held-out records at a point, None where they were not measured.
    pub(super) fn accuracy_and_log_ratio(&self, point: usize) -> [Option<f64>; 2] {
        let value = |key: &str| self.points.get(point)?.held_out.get(key)?.as_f64();
        [value("eval_rewards/accuracies"), value(&format!("eval_{LOG_RATIO}"))]
    }

    /// Returns the point at which all dimensions weigh the same.
    pub(super) fn uniform_point(&self) -> Option<usize> {
        let is_uniform = |point: &Point| point.lambda.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 1e-9);
        self.points.iter().position(is_uniform)
    }

    /// Returns a metric of a dimension at a point.
    pub(super) fn at(&self, point: usize, metric: Metric, dimension: &str) -> Option<f64> {
        let point = self.points.get(point)?;
        match metric {
            Metric::Score => point.generated.as_ref()?.get(&format!("score/{dimension}"))?.as_f64(),
            Metric::Rating => point.held_out.get(&format!("expected_rating/{dimension}"))?.as_f64(),
        }
    }

    /// Returns (λ_k, metric) along the curve of a dimension, which is level without a λ-adapter, and empty if the
    /// metric was not measured.
    pub(super) fn curve(&self, metric: Metric, dimension: &str) -> Vec<(f64, f64)> {
        let Some(k) = self.dimensions.iter().position(|name| name == dimension) else { return Vec::new() };
        let curve = &self.curves[k];
        if let [only] = curve.as_slice() {
            let value = self.at(*only, metric, dimension);
            return value.map_or_else(Vec::new, |value| vec![(0.0, value), (1.0, value)]);
        }
        let point = |&point: &usize| Some((self.points[point].lambda[k], self.at(point, metric, dimension)?));
        curve.iter().filter_map(point).collect()
    }

    /// Returns the metric at λ_k = 1 minus that at λ_k = 0 with the rest equal.
    pub(super) fn range(&self, metric: Metric, dimension: &str) -> Option<f64> {
        let curve = self.curve(metric, dimension);
        Some(curve.last()?.1 - curve.first()?.1)
    }

    /// Returns the metric at a dimension's own corner minus its mean at the other corners. At the corners of a soup are
    /// the specialists, so this is how far they differ.
    pub(super) fn corner_range(&self, metric: Metric, dimension: &str) -> Option<f64> {
        let own = self.dimensions.iter().position(|name| name == dimension)?;
        let corner = |k: usize| self.at(*self.curves[k].last()?, metric, dimension);
        let others: Vec<f64> = (0..self.curves.len()).filter(|k| *k != own).map(corner).collect::<Option<_>>()?;
        let mean = others.iter().sum::<f64>() / others.len() as f64;
        (!others.is_empty()).then_some(corner(own)? - mean)
    }

    /// Returns whether more than one λ was measured.
    pub(super) fn has_lambda(&self) -> bool {
        self.points.len() > 1
    }

    /// Returns the metrics that were measured.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let has = |metric: &Metric| self.dimensions.iter().any(|name| self.at(0, *metric, name).is_some());
        [Metric::Score, Metric::Rating].into_iter().filter(has).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(adapter: Option<&str>) -> ControlReport {
        let subject = Subject { model: "base".into(), adapter: adapter.map(PathBuf::from), ..Subject::default() };
        ControlReport::new(subject, &[], &LossOptions::default(), None, 0, vec![], vec![])
    }

    #[test]
    fn a_report_is_named_after_its_policy_and_unlike_the_others() {
        let other = |name: &str| NamedReport { name: name.into(), report: report(None) };
        let own = report(Some("runs/listwise/adapter"));
        assert_eq!(own.name_beside(&[other("soup")]), "listwise");
        assert_eq!(own.name_beside(&[other("listwise"), other("listwise (2)")]), "listwise (3)");
        assert_eq!(report(Some("specialists")).name_beside(&[]), "specialists (2)");
        assert_eq!(report(None).name_beside(&[]), "base");
    }
}
