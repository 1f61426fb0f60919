//! A fitted table: the surrogate of the anchors, its errors, and the probability of each candidate.

use std::path::PathBuf;

use anyhow::Result;
use indexmap::IndexMap;
use serde::Serialize;

use super::anchors::Anchors;
use super::surrogate::{Form, Surrogate, leave_one_out, softmax};

/// λ by the name of the dimension.
type NamedLambda = IndexMap<String, f64>;

/// Where anchors and candidates came from, and how they are fitted and weighed.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// JSON lines with the anchors.
    pub scores: Option<PathBuf>,
    /// Folder of the control report with the anchors.
    pub steer: Option<PathBuf>,
    /// Metric of the control report that is the score.
    pub metric: Option<String>,
    /// The surrogate's terms.
    pub surrogate: Form,
    /// Weight of the coefficients' squares in the fit.
    pub ridge: f64,
    /// τ of the softmax over predicted scores.
    pub temperature: f64,
    /// Whether lower scores are better.
    pub minimize: bool,
    /// JSON lines with the candidates; None if they were drawn.
    pub candidates_file: Option<PathBuf>,
    /// Seed of the drawn candidates.
    pub seed: Option<u64>,
}

/// Coefficients of the surrogate, by the name of the dimension.
#[derive(Clone, Debug, Serialize)]
pub struct Coefficients {
    /// a
    pub intercept: f64,
    /// b_k, of λ_k.
    pub linear: NamedLambda,
    /// c_k, of λ_k².
    pub squares: NamedLambda,
    /// d_jk, of λ_j λ_k; empty for a diagonal surrogate.
    pub products: Vec<Product>,
}

/// The coefficient of a pair of dimensions.
#[derive(Clone, Debug, Serialize)]
pub struct Product {
    /// The two dimensions.
    pub dimensions: [String; 2],
    /// d_jk
    pub coefficient: f64,
}

/// How well the surrogate explains an anchor.
#[derive(Clone, Debug, Serialize)]
pub struct AnchorReport {
    /// λ
    pub lambda: NamedLambda,
    /// The given score y.
    pub score: f64,
    /// ŷ
    pub predicted: f64,
    /// y − ŷ
    pub residual: f64,
    /// y − ŷ with ŷ from a surrogate that is fitted to the other anchors only.
    pub leave_one_out_error: f64,
}

/// A candidate with its weight in the table.
#[derive(Clone, Debug, Serialize)]
pub struct CandidateReport {
    /// λ
    pub lambda: NamedLambda,
    /// ŷ
    pub predicted: f64,
    /// softmax(ŷ / τ), or softmax(−ŷ / τ) if lower scores are better.
    pub probability: f64,
}

/// Root mean squares over the anchors.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Errors {
    /// Of the residuals.
    pub residual_rms: f64,
    /// Of the leave-one-out errors.
    pub leave_one_out_rms: f64,
    /// Of the errors if each anchor is predicted by the mean of the others: what a surrogate has to beat.
    pub mean_of_others_rms: f64,
}

/// A fitted table, as the JSON beside it holds it.
#[derive(Clone, Debug, Serialize)]
pub struct Fit {
    /// Names of the M dimensions.
    pub dimensions: Vec<String>,
    /// The settings.
    #[serde(flatten)]
    pub settings: Settings,
    /// The surrogate.
    pub coefficients: Coefficients,
    /// Its errors.
    #[serde(flatten)]
    pub errors: Errors,
    /// The anchors.
    pub anchors: Vec<AnchorReport>,
    /// The candidates: the rows of the table.
    pub candidates: Vec<CandidateReport>,
}

impl Fit {
    /// Fits a surrogate to the anchors and weighs the candidates `[K][M]`.
    ///
    /// # Errors
    ///
    /// Returns an error if the scores are too large for float64. Errors from libtorch.
    pub fn new(anchors: &Anchors, candidates: &[Vec<f64>], settings: Settings) -> Result<Self> {
        let Settings { surrogate: form, ridge, temperature, minimize, .. } = settings;
        let Anchors { dimensions, points } = anchors;
        let named =
            |values: &[f64]| -> NamedLambda { dimensions.iter().cloned().zip(values.iter().copied()).collect() };
        let surrogate = Surrogate::fit(form, ridge, points)?;
        let left_out = leave_one_out(form, ridge, points)?;
        let reports: Vec<AnchorReport> = points
            .iter()
            .zip(left_out)
            .map(|(anchor, without)| {
                let predicted = surrogate.predict(&anchor.lambda);
                AnchorReport {
                    lambda: named(&anchor.lambda),
                    score: anchor.score,
                    predicted,
                    residual: anchor.score - predicted,
                    leave_one_out_error: anchor.score - without,
                }
            })
            .collect();
        let predicted: Vec<f64> = candidates.iter().map(|lambda| surrogate.predict(lambda)).collect();
        let sign = if minimize { -1.0 } else { 1.0 };
        let probabilities = softmax(&predicted.iter().map(|value| sign * value).collect::<Vec<_>>(), temperature);
        let candidates = candidates
            .iter()
            .zip(predicted)
            .zip(probabilities)
            .map(|((lambda, predicted), probability)| CandidateReport { lambda: named(lambda), predicted, probability })
            .collect();
        let coefficients = Coefficients {
            intercept: surrogate.intercept(),
            linear: named(surrogate.linear()),
            squares: named(surrogate.squares()),
            products: surrogate
                .products()
                .map(|(j, k, coefficient)| Product {
                    dimensions: [dimensions[j].clone(), dimensions[k].clone()],
                    coefficient,
                })
                .collect(),
        };
        let dimensions = dimensions.clone();
        Ok(Self { dimensions, settings, coefficients, errors: Errors::of(&reports), anchors: reports, candidates })
    }

    /// Describes the table and the errors of the surrogate in a line.
    pub fn describe(&self) -> String {
        let probabilities = || self.candidates.iter().map(|candidate| candidate.probability);
        let least = probabilities().fold(f64::INFINITY, f64::min);
        let most = probabilities().fold(0.0, f64::max);
        let Errors { residual_rms, leave_one_out_rms, mean_of_others_rms } = self.errors;
        format!(
            "{} rows with probabilities from {least:.4} to {most:.4}; root mean square of the residuals {}, of the \
             leave-one-out errors {} (of the mean of the other anchors {})",
            self.candidates.len(),
            short(residual_rms),
            short(leave_one_out_rms),
            short(mean_of_others_rms)
        )
    }
}

/// Formats a number with three digits.
fn short(value: f64) -> String {
    if (1e-3..1e4).contains(&value) || value == 0.0 {
        let digits = (2 - value.max(1e-3).log10().floor() as i32).max(0) as usize;
        return format!("{value:.digits$}");
    }
    format!("{value:.2e}")
}

impl Errors {
    fn of(anchors: &[AnchorReport]) -> Self {
        let num_anchors = anchors.len() as f64;
        let rms = |error: &dyn Fn(&AnchorReport) -> f64| {
            let squares: f64 = anchors.iter().map(|anchor| error(anchor).powi(2)).sum();
            (squares / num_anchors).sqrt()
        };
        // The deviation from the mean of the others is that from the mean of all, times n / (n − 1). Differences from one
        // score are exactly 0 if all are equal.
        let base = anchors.first().map_or(0.0, |anchor| anchor.score);
        let mean = anchors.iter().map(|anchor| anchor.score - base).sum::<f64>() / num_anchors;
        Self {
            residual_rms: rms(&|anchor| anchor.residual),
            leave_one_out_rms: rms(&|anchor| anchor.leave_one_out_error),
            mean_of_others_rms: rms(&|anchor| (anchor.score - base - mean) * num_anchors / (num_anchors - 1.0)),
        }
    }
}
