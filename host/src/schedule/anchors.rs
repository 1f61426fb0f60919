//! The anchors of a surrogate: λ with a known score, from JSON lines or from a control report.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::steer::ControlReport;

use super::lines::{self, NamedWeights, ScoreLine};
use super::surrogate::{Anchor, Form, num_determined, num_directions};

/// λ that differ by less than this in every dimension are one λ.
const SAME_LAMBDA: f64 = 1e-6;

/// Metric of a control report that is better the lower it is, as are its values by dimension.
const LOSS: &str = "eval_loss";

/// What anchors take from a control report.
#[derive(Clone, Copy, Debug)]
pub struct Metric<'a> {
    /// A measured quantity (`expected_rating/honesty`), or what it is called before the name of a dimension
    /// (`expected_rating`), for the mean over dimensions.
    pub name: &'a str,
    /// Whether lower values are better.
    pub minimize: bool,
}

/// λ with scores, over named dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct Anchors {
    /// Names of the M dimensions, sorted unless they were given in an order.
    pub dimensions: Vec<String>,
    /// The anchors.
    pub points: Vec<Anchor>,
}

impl Anchors {
    /// Reads JSON lines `{"lambda": {name: weight, …}, "score": number}`; without `dimensions`, they have all that occur.
    ///
    /// # Errors
    ///
    /// Returns an error if a line is not of this form, names another dimension, or has a λ that does not sum to 1.
    pub fn read(file: &Path, dimensions: Option<&[String]>) -> Result<Self> {
        let lines = lines::read(file, |line: ScoreLine| {
            let score = line.score.as_f64();
            let score =
                score.with_context(|| format!("the score is {}, but it must be a finite number", line.score))?;
            let known = dimensions.map_or_else(|| lines::all_names([&line.lambda].into_iter()), <[String]>::to_vec);
            // Names the line of a λ that is none, which the conversion below cannot.
            line.lambda.over(&known)?;
            Ok((line.lambda, score))
        })?;
        let weights = || lines.iter().map(|(weights, _): &(NamedWeights, f64)| weights);
        let dimensions = dimensions.map_or_else(|| lines::all_names(weights()), <[String]>::to_vec);
        let anchor =
            |(weights, score): &(NamedWeights, f64)| Ok(Anchor { lambda: weights.over(&dimensions)?, score: *score });
        let points = lines.iter().map(anchor).collect::<Result<_>>()?;
        Ok(Self { dimensions, points })
    }

    /// Takes the λ of a control report with a metric as their score.
    ///
    /// # Errors
    ///
    /// Returns an error if the report does not have the metric at each λ.
    pub fn of_report(report: &ControlReport, metric: Metric<'_>) -> Result<Self> {
        let is_loss = metric.name == LOSS || metric.name.strip_prefix(LOSS).is_some_and(|rest| rest.starts_with('/'));
        ensure!(metric.minimize || !is_loss, "{} is better the lower it is: add --minimize", metric.name);
        let mut order: Vec<usize> = (0..report.dimensions.len()).collect();
        order.sort_by_key(|&dimension| &report.dimensions[dimension]);
        let keys = keys(report, metric.name)?;
        let mut points = Vec::new();
        for (index, point) in report.points.iter().enumerate() {
            let lambda = order.iter().map(|&dimension| point.lambda.get(dimension).copied().unwrap_or(0.0)).collect();
            let lambda = lines::normalized(lambda).with_context(|| format!("λ {index}"))?;
            let mut sum = 0.0;
            for key in &keys {
                let value = value(report, index, key);
                sum += value.and_then(Value::as_f64).with_context(|| {
                    format!("{key} of λ {index} is {}, but it must be a number", value.unwrap_or(&Value::Null))
                })?;
            }
            points.push(Anchor { lambda, score: sum / keys.len() as f64 });
        }
        let dimensions = order.into_iter().map(|dimension| report.dimensions[dimension].clone()).collect();
        Ok(Self { dimensions, points })
    }

    /// Checks that a surrogate can be fitted.
    ///
    /// # Errors
    ///
    /// Returns an error if there are too few different anchors, or if they do not vary in every direction of λ.
    pub fn check(&self, form: Form) -> Result<()> {
        let (dimensions, num_dimensions) = (self.dimensions.join(", "), self.dimensions.len());
        ensure!(!self.points.is_empty(), "there are no anchors");
        ensure!(
            num_dimensions > 1,
            "{dimensions} is the only dimension, so its λ is always 1: there is nothing to fit"
        );
        let unweighted = (0..num_dimensions).find(|&k| self.points.iter().all(|point| point.lambda[k] == 0.0));
        if let Some(unweighted) = unweighted {
            bail!(
                "no anchor gives `{}` a weight above 0: add one that does, or leave the dimension out",
                self.dimensions[unweighted]
            );
        }
        let num_different = self.num_different();
        let num_anchors = self.points.len();
        ensure!(
            num_different > 1 || num_anchors == 1,
            "all {num_anchors} anchors are at the same λ: add the corners (all weight on one dimension) and the centre \
             (equal weights)"
        );
        let needed = form.min_anchors(num_dimensions);
        if num_different < needed {
            let such_as = match form {
                Form::Diagonal => "such as the corners (all weight on one dimension) and the centre (equal weights)",
                Form::Full => "or use --surrogate diagonal",
            };
            bail!(
                "anchors at {num_different} different λ are too few for a {form} surrogate over {num_dimensions} \
                 dimensions ({dimensions}): add some until there are {needed}, {such_as}"
            );
        }
        let directions = num_directions(&self.points)?;
        ensure!(
            directions == num_dimensions,
            "the anchors vary in {} of the {} directions of λ over {dimensions}: add the corners (all weight on one \
             dimension)",
            directions.saturating_sub(1),
            num_dimensions - 1
        );
        if form == Form::Full {
            let determined = num_determined(form, &self.points)?;
            ensure!(
                determined == needed,
                "the anchors determine {determined} of the {needed} coefficients of a full surrogate: add some that weigh \
                 each pair of dimensions, or use --surrogate diagonal"
            );
        }
        Ok(())
    }

    fn num_different(&self) -> usize {
        let same = |left: &Anchor, right: &Anchor| {
            left.lambda.iter().zip(&right.lambda).all(|(left, right)| (left - right).abs() < SAME_LAMBDA)
        };
        let is_first = |&index: &usize| !self.points[..index].iter().any(|point| same(point, &self.points[index]));
        (0..self.points.len()).filter(is_first).count()
    }
}

/// Returns what a report measured at a λ under this key.
fn value<'a>(report: &'a ControlReport, point: usize, key: &str) -> Option<&'a Value> {
    let point = report.points.get(point)?;
    point.held_out.get(key).or_else(|| point.generated.as_ref()?.get(key))
}

/// Returns the keys of which a metric is the mean: its own, or one for each dimension.
fn keys(report: &ControlReport, metric: &str) -> Result<Vec<String>> {
    if value(report, 0, metric).is_some() {
        return Ok(vec![metric.to_owned()]);
    }
    let by_dimension: Vec<String> = report.dimensions.iter().map(|name| format!("{metric}/{name}")).collect();
    if by_dimension.iter().all(|key| value(report, 0, key).is_some()) {
        return Ok(by_dimension);
    }
    if let Some(missing) = by_dimension.iter().find(|key| value(report, 0, key).is_none())
        && by_dimension.iter().any(|key| value(report, 0, key).is_some())
    {
        bail!("the report has no {missing}, so {metric} has no mean over all dimensions");
    }
    let measured = report.points.iter().take(1);
    let known =
        measured.flat_map(|point| point.held_out.keys().chain(point.generated.iter().flat_map(|row| row.keys())));
    let known: Vec<&str> = known.map(String::as_str).collect();
    bail!(
        "the report has no metric `{metric}`: it has {}; the part before the name of a dimension, such as expected_rating, \
         is the mean over all dimensions",
        known.join(", ")
    )
}
