//! An evaluation: what was measured, as `evaluation.json` holds it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Row;

use super::estimate::Estimate;

/// An evaluation of a policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// The policy that was measured.
    pub subject: Subject,
    /// How it was measured.
    pub settings: Settings,
    /// Means over held-out records: `loss`, `loss/<dimension>`, `rewards/accuracies`, `rewards/margins`,
    /// `expected_rating/<dimension>`, `logps/ratio`.
    pub records: Row,
    /// Divergence from the reference; None without a reference.
    pub kl: Option<Kl>,
    /// Rank correlation of the records' sequence log-probs with their lengths.
    pub spearman: Spearman,
    /// Mean scores of the generated answers, by the judge's names; empty without a judge.
    #[schemars(with = "BTreeMap<String, Sides>")]
    pub scores: IndexMap<String, Sides>,
    /// How often the policy's answers score higher than those they are compared with; None without a judge or without
    /// answers to compare with.
    pub win_rate: Option<WinRate>,
    /// Cost of the training run; None without `--run`.
    pub run: Option<RunFigures>,
}

/// A policy, as named on the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// The model's folder, or its name on the hub.
    pub model: PathBuf,
    /// The adapter's folder.
    pub adapter: Option<PathBuf>,
    /// λ by dimension; None without a λ-adapter.
    #[schemars(with = "Option<BTreeMap<String, f64>>")]
    pub lambda: Option<IndexMap<String, f64>>,
    /// The reference: a folder, `adapter_off` or `none`.
    pub reference: String,
}

/// How a policy was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Names of the M dimensions.
    pub dimensions: Vec<String>,
    /// λ that weighs the dimensions in loss, accuracy and margin, `[M]`.
    pub lambda: Vec<f64>,
    /// β of the listwise distribution.
    pub beta: f64,
    /// Reduction of token log-probs: `sum` or `mean`.
    pub reduction: String,
    /// Number of held-out records.
    pub num_records: usize,
    /// Prompts answered; 0 if nothing was generated.
    pub num_prompts: usize,
    /// Answers to each prompt.
    pub num_samples: usize,
    /// Tokens of an answer, at most.
    pub max_new_tokens: usize,
    /// Sampling temperature.
    pub temperature: f64,
    /// Seed of the sampling.
    pub seed: u64,
    /// What scored the answers: a reward model's folder, or a command.
    pub judge: Option<String>,
    /// What they were compared with: `reference`, or another model's answers.
    pub against: Option<String>,
}

/// Kullback–Leibler divergence KL(π‖π_ref), in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kl {
    /// Of an answer, estimated from the policy's own answers by Σ_t log π/π_ref; None if there are none, or if they were not
    /// sampled from π itself (temperature 1).
    pub k1: Option<Estimate>,
    /// The same, estimated by Σ_t (r_t − 1 − log r_t) with r = π_ref/π, which is never negative.
    pub k3: Option<Estimate>,
    /// Of a token, exactly: the divergence over the whole vocabulary, averaged over the tokens of the records' responses.
    pub tokens: Estimate,
}

/// Spearman's rank correlation of sequence log-probs with lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Spearman {
    /// With sums of token log-probs.
    pub sum: PolicyAndReference,
    /// With their means.
    pub mean: PolicyAndReference,
}

/// A figure of the policy beside that of its reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyAndReference {
    /// Of the policy; None where all lengths, or all log-probs, are equal.
    pub policy: Option<Estimate>,
    /// Of the reference.
    pub reference: Option<Estimate>,
}

/// A figure of the policy's answers beside that of the answers they are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sides {
    /// Of the policy's answers.
    pub policy: Estimate,
    /// Of the others; None if there are none.
    pub against: Option<Estimate>,
}

/// How often the policy's answers win.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WinRate {
    /// By the judge's score; if it writes several, by their mean, which λ weighs if they are the dimensions.
    #[serde(flatten)]
    pub overall: Rate,
    /// Mean length of the answers, in characters.
    pub mean_length: MeanLength,
    /// By each score of a judge that writes several.
    #[schemars(with = "BTreeMap<String, Rate>")]
    pub scores: IndexMap<String, Rate>,
}

/// A win rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rate {
    /// Share of answers that score higher; a tie is half of one.
    pub rate: f64,
    /// Standard error over prompts.
    pub stderr: Option<f64>,
    /// 95 % confidence interval.
    pub interval: [f64; 2],
    /// The rate that a logistic regression predicts for answers of equal length; None if it cannot be fitted.
    pub length_controlled: Option<f64>,
    /// Number of wins.
    pub wins: usize,
    /// Number of ties.
    pub ties: usize,
    /// Number of losses.
    pub losses: usize,
}

/// Mean lengths, in characters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeanLength {
    /// Of the policy's answers.
    pub policy: f64,
    /// Of the others.
    pub against: f64,
}

/// What a training run cost, from its `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunFigures {
    /// The run's folder.
    pub folder: PathBuf,
    /// Optimiser steps.
    pub steps: u64,
    /// Mean time of a step times their number, in seconds: without start, evaluation and saves.
    pub seconds: f64,
    /// Tokens per second of the median step.
    pub tokens_per_second: f64,
    /// Highest memory use of a step, in bytes: of the device on CUDA, else of the process.
    pub peak_memory_bytes: u64,
}
