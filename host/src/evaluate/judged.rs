//! Answers with a judge's scores, and how they compare with others.

use anyhow::Result;
use indexmap::IndexMap;

use crate::answers::rater::Scores;
use crate::answers::{Judge, JudgedAnswer, Question};

use super::estimate::Estimate;
use super::evaluation::{Sides, WinRate};
use super::win_rate::{Side, win_rate};

/// Answers to each prompt and their scores, the same number to each.
pub(super) struct Judged {
    pub(super) texts: Vec<Vec<String>>,
    pub(super) scores: Vec<Vec<Scores>>,
}

impl Judged {
    /// Scores the answers of one side.
    ///
    /// # Errors
    ///
    /// Errors of the judge.
    pub(super) fn new(judge: &Judge, questions: &[Question], texts: Vec<Vec<String>>) -> Result<Self> {
        let answers = questions.iter().zip(&texts).flat_map(|(question, texts)| {
            texts.iter().map(|text| JudgedAnswer { messages: question.messages.clone(), response: text.clone() })
        });
        let mut scores = judge.scores(&answers.collect::<Vec<_>>())?.into_iter();
        let scores = texts.iter().map(|texts| scores.by_ref().take(texts.len()).collect()).collect();
        Ok(Self { texts, scores })
    }

    /// Returns the mean of each score, with its error over prompts.
    fn means(&self) -> IndexMap<String, Estimate> {
        let names = self.scores.iter().flatten().next().into_iter().flat_map(Scores::keys);
        let estimate = |name: &String| {
            let values = |scores: &Vec<Scores>| scores.iter().filter_map(|scores| scores.get(name).copied()).collect();
            Estimate::of_groups(&self.scores.iter().map(values).collect::<Vec<_>>())
        };
        names.filter_map(|name| Some((name.clone(), estimate(name)?))).collect()
    }

    /// Returns the lengths of the answers in characters.
    fn lengths(&self) -> Vec<Vec<usize>> {
        let lengths = |texts: &Vec<String>| texts.iter().map(|text| text.chars().count()).collect();
        self.texts.iter().map(lengths).collect()
    }
}

/// Returns the mean scores of the policy's answers beside those of the others.
pub(super) fn mean_scores(policy: &Judged, against: Option<&Judged>) -> IndexMap<String, Sides> {
    let mut others = against.map(Judged::means).unwrap_or_default();
    let sides = |(name, policy)| {
        let against = others.swap_remove(&name);
        (name, Sides { policy, against })
    };
    policy.means().into_iter().map(sides).collect()
}

/// Compares the policy's answers with the others; λ `[M]` weighs the dimensions.
///
/// # Errors
///
/// The same as those of [`win_rate`].
pub(super) fn compare(policy: &Judged, against: &Judged, dimensions: &[String], lambda: &[f64]) -> Result<WinRate> {
    let (own_lengths, other_lengths) = (policy.lengths(), against.lengths());
    win_rate(
        Side { scores: &policy.scores, lengths: &own_lengths },
        Side { scores: &against.scores, lengths: &other_lengths },
        dimensions,
        lambda,
    )
}
