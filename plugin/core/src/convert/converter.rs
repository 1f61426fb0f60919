//! One record → one sample, with counts of those left out.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::Array2;
use serde_json::{Map, Value};

use super::options::{ConvertOptions, MissingRating};
use super::report::{Report, Skipped};
use super::sample::Sample;
use crate::record::{Body, Completion, Message, Prompt, Rating, Record};
use crate::{Error, Result};

/// Fields of a response besides its text.
type Extras = Map<String, Value>;

/// A sample, or the reason why there is none.
type Outcome = std::result::Result<Sample, Skipped>;

/// The one dimension of a pair.
pub const PREFERENCE: &str = "preference";

/// Mean ratings that differ by no more than this tie. Rounding, which depends on the order of the sum, is far below it.
const TIE: f64 = 1e-9;

/// Converts records and counts those it leaves out.
#[derive(Debug)]
pub struct Converter {
    pub(super) options: Arc<ConvertOptions>,
    pub(super) report: Report,
    /// Names of the dimensions in the records so far.
    seen: BTreeSet<String>,
}

impl Converter {
    /// Creates a converter. If the options name no dimensions, each record's own names are used, sorted.
    ///
    /// # Errors
    ///
    /// Returns an error if the temperature is not above 0, the missing rating is not finite, a dimension is named
    /// twice, or the options contradict each other.
    pub fn new(options: ConvertOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { options: Arc::new(options), report: Report::default(), seen: BTreeSet::new() })
    }

    /// Creates a converter with the same options and no counts, for a part of the records on another thread.
    pub(super) fn fork(&self) -> Self {
        Self { options: Arc::clone(&self.options), report: Report::default(), seen: BTreeSet::new() }
    }

    /// Adds the counts of a fork.
    pub(super) fn absorb(&mut self, fork: Self) {
        self.report.add(fork.report);
        self.seen.extend(fork.seen);
    }

    /// Converts one record. Returns None if the options leave it out, which the report counts.
    ///
    /// # Equation
    ///
    /// `pi_target[k, i] = softmax_i(rating[k, i] / temperature)` over the rated responses (13).
    pub fn convert(&mut self, record: Record) -> Option<Sample> {
        self.report.num_records += 1;
        if record.source.as_ref().is_some_and(|source| self.options.exclude_sources.contains(source)) {
            self.report.skip(Skipped::ExcludedSource);
            return None;
        }
        let Record { index, prompt, body, response_extras, tools, ignored, .. } = record;
        self.report.ignore(ignored);
        let converted = match body {
            Body::Rated(completions) => self.convert_rated(index, prompt, completions, response_extras),
            Body::Pair { chosen, rejected } => {
                let pair = pair(index, prompt, [chosen, rejected], [f64::NAN; 2]);
                Ok(Sample { response_extras, ..pair })
            }
            Body::Conversation => self.convert_conversation(index, prompt),
        };
        match converted {
            Ok(sample) => {
                self.report.num_samples += 1;
                Some(Sample { tools, ..sample })
            }
            Err(reason) => {
                self.report.skip(reason);
                None
            }
        }
    }

    /// Returns the counts so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Checks that each dimension that the options name occurs in the records converted so far.
    ///
    /// # Errors
    ///
    /// Returns an error with the name of a dimension that does not, and those that exist.
    pub fn check_dimensions(&self) -> Result<()> {
        let names = self.options.dimensions.as_deref().unwrap_or_default();
        let read_ratings = self.options.format.has_dimensions() && self.report.num_records > 0;
        match names.iter().find(|name| read_ratings && !self.options.keep_all && !self.seen.contains(*name)) {
            None => Ok(()),
            Some(name) => {
                let existing: Vec<_> = self.seen.iter().map(String::as_str).collect();
                let existing = if existing.is_empty() { "none".to_owned() } else { existing.join(", ") };
                Err(Error::InvalidData(format!(
                    "no record rates the dimension `{name}`; dimensions in the records: {existing}"
                )))
            }
        }
    }

    fn convert_rated(
        &mut self,
        index: u64,
        prompt: Prompt,
        completions: Vec<Completion>,
        response_extras: Vec<Extras>,
    ) -> Outcome {
        for name in completions.iter().flat_map(|completion| completion.ratings.keys()) {
            if !self.seen.contains(name) {
                self.seen.insert(name.clone());
            }
        }
        let dimensions = self.options.dimensions.clone().unwrap_or_else(|| own_dimensions(&completions));
        let ratings = self.ratings(index, &dimensions, &completions); // [M, N]
        let responses: Vec<String> = completions.into_iter().map(|completion| completion.response).collect();
        if responses.len() < 2 && !self.options.keep_all {
            return Err(Skipped::FewerThanTwoResponses);
        }
        if self.options.best_worst_pairs {
            return best_and_worst(index, prompt, responses, response_extras, &ratings);
        }
        let pi_target = target_distributions(&ratings, self.options.missing_rating, self.options.temperature);
        if pi_target.iter().all(|p| p.is_nan()) && !self.options.keep_all {
            return Err(Skipped::NoRatedDimension);
        }
        Ok(Sample {
            record_index: index,
            prompt,
            tools: None,
            responses,
            response_extras,
            dimensions,
            ratings,
            pi_target,
        })
    }

    /// Returns `[M, N]` ratings, NaN if missing; counts each missing one under its kind.
    fn ratings(&mut self, index: u64, dimensions: &[String], completions: &[Completion]) -> Array2<f64> {
        let mut ratings = Array2::from_elem((dimensions.len(), completions.len()), f64::NAN);
        for ((k, i), rating) in ratings.indexed_iter_mut() {
            match completions[i].ratings.get(&dimensions[k]).unwrap_or(&Rating::Missing("absent")) {
                Rating::Value(value) => *rating = *value,
                Rating::Missing(kind) => self.report.missing(kind, index),
            }
        }
        ratings
    }

    fn convert_conversation(&self, index: u64, prompt: Prompt) -> Outcome {
        let answered = matches!(&prompt, Prompt::Messages(messages) if messages.iter().any(Message::is_assistant));
        if !answered && !self.options.keep_all {
            return Err(Skipped::NoAssistantTurn);
        }
        let none = || Array2::zeros((0, 0));
        Ok(Sample {
            record_index: index,
            prompt,
            tools: None,
            responses: Vec::new(),
            response_extras: Vec::new(),
            dimensions: Vec::new(),
            ratings: none(),
            pi_target: none(),
        })
    }
}

/// Parses and converts one record. Returns None if the options leave it out.
///
/// # Errors
///
/// Returns an error if the options are invalid or the record, named by its index, does not parse.
pub fn convert_record(json: &str, record_index: u64, options: &ConvertOptions) -> Result<Option<Sample>> {
    let mut converter = Converter::new(options.clone())?;
    let record = Record::parse(json, options.format, record_index)
        .map_err(|problem| Error::InvalidData(format!("record {record_index}: {problem}")))?;
    Ok(converter.convert(record))
}

fn own_dimensions(completions: &[Completion]) -> Vec<String> {
    let names: BTreeSet<&String> = completions.iter().flat_map(|completion| completion.ratings.keys()).collect();
    names.into_iter().cloned().collect()
}

/// Creates a pair: one dimension, with target (1, 0) over (chosen, rejected).
fn pair(record_index: u64, prompt: Prompt, responses: [String; 2], ratings: [f64; 2]) -> Sample {
    let row = |values: [f64; 2]| Array2::from_shape_fn((1, 2), |(_, i)| values[i]);
    Sample {
        record_index,
        prompt,
        tools: None,
        responses: responses.into(),
        response_extras: Vec::new(),
        dimensions: vec![PREFERENCE.to_owned()],
        ratings: row(ratings),
        pi_target: row([1.0, 0.0]),
    }
}

/// Pairs the responses with the highest and the lowest mean of their ratings, the first of each if several tie.
fn best_and_worst(
    index: u64,
    prompt: Prompt,
    mut responses: Vec<String>,
    mut extras: Vec<Extras>,
    ratings: &Array2<f64>,
) -> Outcome {
    let mut extremes: Option<[(usize, f64); 2]> = None;
    let mut num_rated = 0;
    for (i, column) in ratings.columns().into_iter().enumerate() {
        let (sum, count) = column.iter().filter(|r| !r.is_nan()).fold((0.0, 0.0), |(sum, n), r| (sum + r, n + 1.0));
        if count == 0.0 {
            continue;
        }
        num_rated += 1;
        let mean = sum / count;
        let [best, worst] = extremes.get_or_insert([(i, mean); 2]);
        if mean > best.1 + TIE {
            *best = (i, mean);
        }
        if mean < worst.1 - TIE {
            *worst = (i, mean);
        }
    }
    match extremes {
        Some([best, worst]) if best.0 != worst.0 => {
            let answers = [best, worst].map(|(i, _)| std::mem::take(&mut responses[i]));
            if !extras.is_empty() {
                extras = [best, worst].map(|(i, _)| std::mem::take(&mut extras[i])).into();
            }
            Ok(Sample { response_extras: extras, ..pair(index, prompt, answers, [best.1, worst.1]) })
        }
        Some(_) if num_rated > 1 => Err(Skipped::BestAndWorstTie),
        _ => Err(Skipped::NoRatedDimension),
    }
}

/// p^(k) = softmax(rating / temperature) over the rated responses (13); all NaN for a row with fewer than two.
fn target_distributions(ratings: &Array2<f64>, missing_rating: MissingRating, temperature: f64) -> Array2<f64> {
    let mut pi_target = match missing_rating {
        MissingRating::Mask => ratings.clone(),
        MissingRating::Value(value) => ratings.mapv(|rating| if rating.is_nan() { value } else { rating }),
    };
    for mut row in pi_target.rows_mut() {
        if row.iter().filter(|rating| !rating.is_nan()).count() < 2 {
            row.fill(f64::NAN);
            continue;
        }
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max); // f64::max ignores NaN
        row.mapv_inplace(|rating| ((rating - max) / temperature).exp());
        let sum: f64 = row.iter().filter(|weight| !weight.is_nan()).sum();
        row.mapv_inplace(|weight| weight / sum);
    }
    pi_target
}
