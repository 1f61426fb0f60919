//! Counts of records read and left out, and of missing ratings.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Reason why a record, or a part of it, gave no sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Its source is excluded.
    ExcludedSource,
    /// It has fewer than two responses, possibly after truncation.
    FewerThanTwoResponses,
    /// No dimension rates two of its responses.
    NoRatedDimension,
    /// Its best and worst responses have the same mean rating.
    BestAndWorstTie,
    /// It is a conversation without an assistant turn.
    NoAssistantTurn,
    /// It is a conversation whose assistant turns all lie beyond the cutoff, or have a weight of 0.
    NoTargetLeft,
    /// The chat template renders its prompt to no token at all, so nothing predicts the first token of a response.
    EmptyPrompt,
}

impl Skipped {
    /// Returns the reason's name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExcludedSource => "excluded_source",
            Self::FewerThanTwoResponses => "fewer_than_two_responses",
            Self::NoRatedDimension => "no_rated_dimension",
            Self::BestAndWorstTie => "best_and_worst_tie",
            Self::NoAssistantTurn => "no_assistant_turn",
            Self::NoTargetLeft => "no_target_left",
            Self::EmptyPrompt => "empty_prompt",
        }
    }
}

/// Missing ratings of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRatings {
    /// Number of missing ratings.
    pub count: u64,
    /// Index of the first record that has one.
    pub first_record: u64,
}

/// Counts from reading, conversion and (in a dataset) tokenisation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of records read.
    pub num_records: u64,
    /// Number of samples; a conversation may give several (see [`Tokenizer::tokenize`](crate::Tokenizer::tokenize)).
    pub num_samples: u64,
    /// Number of samples left out, by reason.
    pub skipped: BTreeMap<Cow<'static, str>, u64>,
    /// Missing ratings, by kind (see [`Rating::Missing`](crate::record::Rating::Missing)).
    pub missing_ratings: BTreeMap<Cow<'static, str>, MissingRatings>,
    /// Number of samples that the cutoff shortened.
    pub num_truncated: u64,
    /// Number of responses dropped because the cutoff left none of their tokens.
    pub num_dropped_responses: u64,
    /// Fields that have a value and no effect, each with the number of records that have it. From
    /// [`MAX_IGNORED_NAMES`] names on, the others are counted together under `…`.
    pub ignored_fields: BTreeMap<Cow<'static, str>, u64>,
}

/// Maximum number of names in [`Report::ignored_fields`]: records whose keys are data must not fill the memory.
pub const MAX_IGNORED_NAMES: usize = 100;

impl Report {
    pub(crate) fn skip(&mut self, reason: Skipped) {
        *self.skipped.entry(Cow::Borrowed(reason.name())).or_default() += 1;
    }

    pub(crate) fn missing(&mut self, kind: &'static str, record_index: u64) {
        self.add_missing(Cow::Borrowed(kind), &MissingRatings { count: 1, first_record: record_index });
    }

    pub(crate) fn ignore(&mut self, names: BTreeSet<String>) {
        for name in names {
            self.add_ignored(Cow::Owned(name), 1);
        }
    }

    fn add_ignored(&mut self, name: Cow<'static, str>, count: u64) {
        let is_full = self.ignored_fields.len() >= MAX_IGNORED_NAMES && !self.ignored_fields.contains_key(&name);
        let name = if is_full { Cow::Borrowed("…") } else { name };
        *self.ignored_fields.entry(name).or_default() += count;
    }

    fn add_missing(&mut self, kind: Cow<'static, str>, more: &MissingRatings) {
        let missing =
            self.missing_ratings.entry(kind).or_insert(MissingRatings { count: 0, first_record: more.first_record });
        missing.count += more.count;
        missing.first_record = missing.first_record.min(more.first_record);
    }

    /// Adds the counts of other records.
    pub(crate) fn add(&mut self, other: Self) {
        self.num_records += other.num_records;
        self.num_samples += other.num_samples;
        self.num_truncated += other.num_truncated;
        self.num_dropped_responses += other.num_dropped_responses;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        for (kind, missing) in other.missing_ratings {
            self.add_missing(kind, &missing);
        }
        for (name, count) in other.ignored_fields {
            self.add_ignored(name, count);
        }
    }
}
