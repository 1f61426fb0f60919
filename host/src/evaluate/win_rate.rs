//! How often a policy's answers score higher than the answers they are compared with.

mod length_control;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use indexmap::IndexMap;

use crate::answers::rater::Scores;

use super::estimate::Estimate;
use super::evaluation::{MeanLength, Rate, WinRate};
use length_control::length_controlled;

/// Quantile of the standard normal distribution for a two-sided interval of 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// Scores that differ by no more than this share of their size are equal: a weighted sum rounds differently in another order.
const ROUNDING: f64 = 1e-12;

/// The answers of one side, by prompt and sample.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What the judge gave each answer.
    pub scores: &'a [Vec<Scores>],
    /// Length of each answer, in characters.
    pub lengths: &'a [Vec<usize>],
}

/// Compares a policy's answers with others, each with the one of the same prompt and sample.
///
/// An answer wins if its score is higher, and a tie is half a win. If the judge writes several scores, the score is
/// Σ_k λ_k score_k if they include all dimensions, else their plain mean.
///
/// The standard error is over prompts, because answers to one prompt depend on each other. The interval is Wilson's for n =
/// the number of prompts: ties and several samples make a rate vary less than wins and losses of as many single answers, so
/// that it is rather too wide than too narrow.
///
/// # Errors
///
/// Returns an error if there are no answers, the two sides differ in their number, or a score is missing.
pub fn win_rate(policy: Side, against: Side, dimensions: &[String], lambda: &[f64]) -> Result<WinRate> {
    let shape = |scores: &[Vec<Scores>]| scores.iter().map(Vec::len).collect::<Vec<_>>();
    let lengths = |lengths: &[Vec<usize>]| lengths.iter().map(Vec::len).collect::<Vec<_>>();
    let expected = shape(policy.scores);
    ensure!(expected.iter().sum::<usize>() > 0, "there are no answers to compare");
    ensure!(
        [shape(against.scores), lengths(policy.lengths), lengths(against.lengths)]
            .iter()
            .all(|found| *found == expected),
        "the answers that are compared differ in number: each prompt needs as many on both sides"
    );
    let names: BTreeSet<&String> = policy.scores.iter().flatten().flat_map(Scores::keys).collect();
    let rate = |weights: &[(&String, f64)]| rate(policy, against, weights);
    let overall = rate(&weights(&names, dimensions, lambda))?;
    let mut scores = IndexMap::new();
    if names.len() > 1 {
        for name in names {
            scores.insert(name.clone(), rate(&[(name, 1.0)])?);
        }
    }
    let mean_length = MeanLength { policy: mean(policy.lengths), against: mean(against.lengths) };
    Ok(WinRate { overall, mean_length, scores })
}

/// Returns the weight of each score in the overall one.
fn weights<'a>(names: &BTreeSet<&'a String>, dimensions: &'a [String], lambda: &[f64]) -> Vec<(&'a String, f64)> {
    if !dimensions.is_empty() && dimensions.iter().all(|dimension| names.contains(dimension)) {
        return dimensions.iter().zip(lambda.iter().copied()).collect();
    }
    names.iter().map(|name| (*name, 1.0 / names.len() as f64)).collect()
}

fn rate(policy: Side, against: Side, weights: &[(&String, f64)]) -> Result<Rate> {
    let mut outcomes = Vec::with_capacity(policy.scores.len());
    for (own, others) in policy.scores.iter().zip(against.scores) {
        let pairs = own.iter().zip(others);
        outcomes.push(pairs.map(|(own, other)| outcome(own, other, weights)).collect::<Result<Vec<f64>>>()?);
    }
    let estimate = Estimate::of_groups(&outcomes).context("there are no answers to compare")?;
    let lengths = policy.lengths.iter().flatten().zip(against.lengths.iter().flatten());
    let excess: Vec<f64> = lengths.map(|(&own, &other)| own as f64 - other as f64).collect();
    let outcomes: Vec<f64> = outcomes.concat();
    let num_prompts = policy.scores.iter().filter(|answers| !answers.is_empty()).count();
    let count = |value: f64| outcomes.iter().filter(|&&outcome| outcome == value).count();
    Ok(Rate {
        rate: estimate.mean,
        stderr: estimate.stderr,
        interval: wilson(estimate.mean, num_prompts as f64),
        length_controlled: length_controlled(&outcomes, &excess),
        wins: count(1.0),
        ties: count(0.5),
        losses: count(0.0),
    })
}

/// Returns 1 if the first answer wins, ½ at a tie, 0 if it loses.
fn outcome(own: &Scores, other: &Scores, weights: &[(&String, f64)]) -> Result<f64> {
    let (mut difference, mut size) = (0.0, 0.0);
    for (name, weight) in weights {
        let score = |scores: &Scores| scores.get(*name).copied();
        let (own, other) = score(own).zip(score(other)).with_context(|| format!("an answer has no score {name}"))?;
        difference += weight * (own - other);
        size += weight * (own.abs() + other.abs());
    }
    Ok(if difference.abs() <= ROUNDING * size {
        0.5
    } else if difference > 0.0 {
        1.0
    } else {
        0.0
    })
}

/// Returns Wilson's interval for a rate over `count` observations (E. B. Wilson, 1927):
/// (p + z²/2n ± z √(p (1 − p) / n + z²/4n²)) / (1 + z²/n).
fn wilson(rate: f64, count: f64) -> [f64; 2] {
    let z2 = Z * Z / count;
    let half = Z * (rate * (1.0 - rate) / count + z2 / (4.0 * count)).sqrt();
    let bound = |half: f64| ((rate + z2 / 2.0 + half) / (1.0 + z2)).clamp(0.0, 1.0);
    [bound(-half), bound(half)]
}

fn mean(lengths: &[Vec<usize>]) -> f64 {
    let count = lengths.iter().map(Vec::len).sum::<usize>();
    lengths.iter().flatten().sum::<usize>() as f64 / count as f64
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn scored(values: &[&[(&str, f64)]]) -> Vec<Vec<Scores>> {
        let scores = |value: &[(&str, f64)]| value.iter().map(|(name, score)| ((*name).to_owned(), *score)).collect();
        values.iter().map(|value| vec![scores(value)]).collect()
    }

    fn compared(own: &[&[(&str, f64)]], other: &[&[(&str, f64)]], dimensions: &[&str], lambda: &[f64]) -> WinRate {
        let (own, other) = (scored(own), scored(other));
        let lengths = vec![vec![10]; own.len()];
        let side = |scores| Side { scores, lengths: &lengths };
        let dimensions: Vec<String> = dimensions.iter().map(|&name| name.to_owned()).collect();
        win_rate(side(&own), side(&other), &dimensions, lambda).unwrap()
    }

    #[test]
    fn ties_are_half_a_win() {
        let found = compared(
            &[&[("reward", 2.0)], &[("reward", 1.0)], &[("reward", 0.0)], &[("reward", 3.0)]],
            &[&[("reward", 1.0)], &[("reward", 1.0)], &[("reward", 5.0)], &[("reward", -3.0)]],
            &[],
            &[],
        );
        let Rate { rate, wins, ties, losses, length_controlled, .. } = found.overall;
        assert_eq!((rate, wins, ties, losses, length_controlled), (0.625, 2, 1, 1, Some(0.625)));
        // Deviations 3/8, −1/8, −5/8, 3/8.
        let expected = ((9.0 + 1.0 + 25.0 + 9.0) / 64.0 / 3.0 / 4.0_f64).sqrt();
        assert!((found.overall.stderr.unwrap() - expected).abs() < 1e-15);
        assert!(found.scores.is_empty());
        assert_eq!(found.mean_length, MeanLength { policy: 10.0, against: 10.0 });
    }

    #[test]
    fn several_scores_are_weighed_by_lambda_if_they_are_the_dimensions() {
        let own: &[&[(&str, f64)]] = &[&[("a", 1.0), ("b", 0.0), ("words", 0.0)]];
        let other: &[&[(&str, f64)]] = &[&[("a", 0.0), ("b", 2.0), ("words", 9.0)]];
        let won = compared(own, other, &["b", "a"], &[0.2, 0.8]);
        assert_eq!((won.overall.rate, won.overall.stderr), (1.0, None));
        assert_eq!(compared(own, other, &["b", "a"], &[0.8, 0.2]).overall.rate, 0.0);
        let rates: Vec<_> = won.scores.iter().map(|(name, rate)| (name.as_str(), rate.rate)).collect();
        assert_eq!(rates, [("a", 1.0), ("b", 0.0), ("words", 0.0)]);
        // Without one of the dimensions, the plain mean of all.
        assert_eq!(compared(own, other, &["a", "c"], &[1.0, 0.0]).overall.rate, 0.0);
    }

    #[test]
    fn sums_that_differ_by_rounding_are_ties() {
        let third = 1.0 / 3.0;
        let found = compared(
            &[&[("a", 0.1), ("b", 0.3), ("c", 0.7)]],
            &[&[("a", 0.7), ("b", 0.1), ("c", 0.3)]],
            &["a", "b", "c"],
            &[third; 3],
        );
        assert_eq!((found.overall.rate, found.overall.ties), (0.5, 1));
        let zeros = compared(&[&[("a", 0.0)]], &[&[("a", 0.0)]], &[], &[]);
        assert_eq!(zeros.overall.ties, 1);
    }

    #[test]
    fn intervals_are_those_of_wilson() {
        // 8 of 10, by hand: centre (0.8 + 0.19207) / 1.38415, half-width 1.95996 √(0.016 + 0.0096036) / 1.38415.
        let [low, high] = wilson(0.8, 10.0);
        assert!((low - 0.490_16).abs() < 1e-5 && (high - 0.943_31).abs() < 1e-5, "{low} {high}");
        assert_eq!(wilson(0.0, 20.0)[0], 0.0);
        assert_eq!(wilson(1.0, 20.0)[1], 1.0);
    }

    #[test]
    fn sides_that_do_not_match_are_refused() {
        let (one, two) = (scored(&[&[("a", 1.0)]]), scored(&[&[("a", 1.0)], &[("a", 2.0)]]));
        let (short, long) = (vec![vec![1]], vec![vec![1], vec![2]]);
        let refused = |own, other| win_rate(own, other, &[], &[]).unwrap_err().to_string();
        let own = Side { scores: &one, lengths: &short };
        assert_eq!(
            refused(own, Side { scores: &two, lengths: &long }),
            "the answers that are compared differ in number: each prompt needs as many on both sides"
        );
        let other = scored(&[&[("b", 1.0)]]);
        assert_eq!(refused(own, Side { scores: &other, lengths: &short }), "an answer has no score a");
        assert_eq!(
            refused(Side { scores: &[], lengths: &[] }, Side { scores: &[], lengths: &[] }),
            "there are no answers to compare"
        );
    }
}
