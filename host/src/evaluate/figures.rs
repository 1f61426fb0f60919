//! The figures of an evaluation, one by one.

use super::estimate::Estimate;
use super::evaluation::{Evaluation, Kl, Rate, RunFigures, Sides, Spearman, WinRate};
use super::figure::{Better, Figure, Section, Unit};

/// A figure and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The figure.
    pub figure: Figure,
    /// Its value.
    pub value: f64,
    /// Its standard error; None if it is not known.
    pub stderr: Option<f64>,
}

/// Returns the figures of an evaluation, in the order of their sections.
#[must_use]
pub fn figures(evaluation: &Evaluation) -> Vec<Measured> {
    let mut all = List(Vec::new());
    let has_judge = evaluation.settings.judge.is_some();
    all.records(evaluation);
    if let Some(kl) = &evaluation.kl {
        all.kl(kl);
    }
    all.spearman(&evaluation.spearman);
    if let Some(win_rate) = &evaluation.win_rate {
        all.win_rate(win_rate);
    }
    for (name, sides) in evaluation.scores.iter().filter(|_| has_judge) {
        all.score(name, sides);
    }
    if let Some(run) = &evaluation.run {
        all.0.extend(cost(run));
    }
    all.0
}

/// Returns what a training run cost.
#[must_use]
pub fn cost(run: &RunFigures) -> Vec<Measured> {
    let mut all = List(Vec::new());
    let mut push = |key: &str, title: &str, unit, better, meaning: &str, value: f64| {
        all.push(Section::Cost, &format!("run/{key}"), title, unit, better, meaning, Some((value, None)));
    };
    push("steps", "optimiser steps", Unit::Count, None, "Updates of the weights.", run.steps as f64);
    push(
        "seconds",
        "time of all steps",
        Unit::Seconds,
        Some(Better::Lower),
        "Time in the steps themselves, without loading, evaluation and saving.",
        run.seconds,
    );
    push(
        "tokens_per_second",
        "speed",
        Unit::TokensPerSecond,
        Some(Better::Higher),
        "Tokens per second of the median step.",
        run.tokens_per_second,
    );
    push(
        "peak_memory_bytes",
        "peak memory",
        Unit::Bytes,
        Some(Better::Lower),
        "The highest memory use of a step: of the device on CUDA, else of the whole process.",
        run.peak_memory_bytes as f64,
    );
    all.0
}

struct List(Vec<Measured>);

impl List {
    /// Adds a figure, unless it was not measured.
    #[expect(clippy::too_many_arguments, reason = "a row of a table")]
    fn push(
        &mut self,
        section: Section,
        key: &str,
        title: &str,
        unit: Unit,
        better: Option<Better>,
        meaning: &str,
        value: Option<(f64, Option<f64>)>,
    ) {
        let Some((value, stderr)) = value else { return };
        let (key, title, meaning) = (key.to_owned(), title.to_owned(), meaning.to_owned());
        self.0.push(Measured { figure: Figure { key, section, title, unit, better, meaning }, value, stderr });
    }

    fn records(&mut self, evaluation: &Evaluation) {
        let value =
            |key: &str| evaluation.records.get(key).and_then(serde_json::Value::as_f64).map(|value| (value, None));
        let mut push = |section, key: &str, title: &str, unit, better, meaning: &str| {
            self.push(section, &format!("records/{key}"), title, unit, better, meaning, value(key));
        };
        let section = Section::Records;
        push(
            section,
            "rewards/accuracies",
            "reward accuracy",
            Unit::Share,
            Some(Better::Higher),
            "The share of prompts for which the response with the highest implicit reward is the one rated best under λ; \
             ties share the credit.",
        );
        push(
            section,
            "loss",
            "loss",
            Unit::Nats,
            Some(Better::Lower),
            "The cross-entropy of the target distribution over a prompt's responses and the policy's; its least value is \
             the target's entropy, not 0.",
        );
        push(
            section,
            "rewards/margins",
            "reward margin",
            Unit::None,
            Some(Better::Higher),
            "The mean implicit reward of the responses rated best under λ minus that of those rated worst; it scales with β.",
        );
        push(
            section,
            "logps/ratio",
            "log-ratio",
            Unit::Nats,
            None,
            "The mean over the given responses of log π − log π_ref. It is no divergence and may be negative: below 0, the \
             policy has become less likely to write these responses.",
        );
        for name in &evaluation.settings.dimensions {
            push(
                Section::Dimensions,
                &format!("expected_rating/{name}"),
                &format!("expected rating, {name}"),
                Unit::None,
                Some(Better::Higher),
                "The rating of a response that is drawn from the policy's distribution over the prompt's responses.",
            );
        }
        for name in &evaluation.settings.dimensions {
            push(
                Section::Dimensions,
                &format!("loss/{name}"),
                &format!("loss, {name}"),
                Unit::Nats,
                Some(Better::Lower),
                "The loss with all weight on this dimension.",
            );
        }
    }

    fn kl(&mut self, kl: &Kl) {
        let mut push = |key: &str, title: &str, meaning: &str, estimate: Option<Estimate>| {
            let value = estimate.map(pair);
            self.push(Section::Divergence, &format!("kl/{key}"), title, Unit::Nats, None, meaning, value);
        };
        push(
            "tokens",
            "KL per token, exact",
            "KL(π‖π_ref) of the next token, over the whole vocabulary, averaged over the tokens of the records' responses. \
             0 is the reference itself; how far is too far depends on what is gained.",
            Some(kl.tokens),
        );
        push(
            "k1",
            "KL per answer, k1",
            "KL(π‖π_ref) of a whole answer, estimated from the policy's own answers by the sum of log π/π_ref: unbiased, but \
             it varies more than k3 and may be negative.",
            kl.k1,
        );
        push(
            "k3",
            "KL per answer, k3",
            "KL(π‖π_ref) of a whole answer, estimated from the policy's own answers by the sum of r − 1 − log r with \
             r = π_ref/π: never negative.",
            kl.k3,
        );
    }

    fn spearman(&mut self, spearman: &Spearman) {
        let meaning =
            "Spearman's correlation of a response's log-probability with its length in tokens, from −1 to 1. ";
        for (key, name, sides, what) in [
            ("sum", "sum", &spearman.sum, "Sums of token log-probs fall with length in any model, so −1 is usual."),
            (
                "mean",
                "mean",
                &spearman.mean,
                "Means do not have to: away from 0, the policy prefers short or long responses.",
            ),
        ] {
            for (side, of, estimate) in
                [("policy", "policy", sides.policy), ("reference", "reference", sides.reference)]
            {
                self.push(
                    Section::Length,
                    &format!("spearman/{key}/{side}"),
                    &format!("Spearman, {name}, {of}"),
                    Unit::None,
                    None,
                    &format!("{meaning}{what}"),
                    estimate.map(pair),
                );
            }
        }
    }

    fn win_rate(&mut self, win_rate: &WinRate) {
        self.rate("", "win rate", &win_rate.overall);
        for (name, rate) in &win_rate.scores {
            self.rate(&format!("scores/{name}/"), &format!("win rate, {name}"), rate);
        }
        for (side, value) in [("policy", win_rate.mean_length.policy), ("against", win_rate.mean_length.against)] {
            self.push(
                Section::Answers,
                &format!("win_rate/mean_length/{side}"),
                &format!("mean length, {}", side_name(side)),
                Unit::Characters,
                None,
                "Characters of an answer. Judges often prefer longer answers: compare the two sides before believing a win \
                 rate.",
                Some((value, None)),
            );
        }
    }

    fn rate(&mut self, key: &str, title: &str, rate: &Rate) {
        self.push(
            Section::Answers,
            &format!("win_rate/{key}rate"),
            title,
            Unit::Share,
            Some(Better::Higher),
            "The share of answers that the judge scores higher than the one they are compared with; a tie is half a win, and \
             50 % is a draw.",
            Some((rate.rate, rate.stderr)),
        );
        self.push(
            Section::Answers,
            &format!("win_rate/{key}length_controlled"),
            &format!("{title}, length-controlled"),
            Unit::Share,
            Some(Better::Higher),
            "The win rate that a logistic regression predicts for two answers of equal length.",
            rate.length_controlled.map(|value| (value, None)),
        );
    }

    fn score(&mut self, name: &str, sides: &Sides) {
        for (side, estimate) in [("policy", Some(sides.policy)), ("against", sides.against)] {
            self.push(
                Section::Answers,
                &format!("scores/{name}/{side}"),
                &format!("score {name}, {}", side_name(side)),
                Unit::None,
                Some(Better::Higher),
                "The judge's mean score of the answers, on its own scale.",
                estimate.map(pair),
            );
        }
    }
}

/// What a side of a comparison is called.
fn side_name(side: &str) -> &str {
    if side == "against" { "the other side" } else { side }
}

fn pair(estimate: Estimate) -> (f64, Option<f64>) {
    (estimate.mean, estimate.stderr)
}
