//! Stage 2: [`Record`](crate::Record) → [`Sample`].

use ndarray::Array2;

use crate::record::Prompt;

/// What stands in for a rating that a response does not have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MissingRating {
    /// Nothing: the response is left out of that dimension's softmax.
    Mask,
    /// A number (1.0 in the paper).
    Value(f64),
}

/// How records become samples; fields as in the ABI's `ConvertOptions`.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Schema of the files.
    pub format: crate::Format,
    /// Reduce each rated record to its best and worst response under the mean rating.
    pub best_worst_pairs: bool,
    /// Names in order; None takes every name that the inputs use, sorted.
    pub dimensions: Option<Vec<String>>,
    /// What a missing rating becomes.
    pub missing_rating: MissingRating,
    /// Temperature of the softmax over ratings (13).
    pub temperature: f64,
    /// Records to read at most.
    pub max_samples: Option<u64>,
    /// Sources to leave out.
    pub exclude_sources: Vec<String>,
    /// Keep every record that parses.
    pub keep_all: bool,
}

/// A prompt with its responses and, per dimension, the target distribution over them.
///
/// A pair is one dimension, `preference`, with target (1, 0) over (chosen, rejected). A conversation has no responses and
/// no dimensions: its prompt holds all turns, and every assistant turn is a target.
///
/// # Shapes
///
/// `ratings` and `pi_target` are [M, N]; NaN where missing and masked (`null` in JSON).
#[derive(Clone, Debug)]
pub struct Sample {
    /// Position of the record in the concatenated inputs.
    pub record_index: u64,
    /// The prompt.
    pub prompt: Prompt,
    /// N responses.
    pub responses: Vec<String>,
    /// M names.
    pub dimensions: Vec<String>,
    /// Ratings.
    pub ratings: Array2<f64>,
    /// Target distributions p^(k) (13).
    pub pi_target: Array2<f64>,
}

/// Converts records and counts what it leaves out.
#[derive(Debug)]
pub struct Converter {}
/// Counts.
#[derive(Debug)]
pub struct Report {}
/// Stages 1 and 2 as one stream.
#[derive(Debug)]
pub struct SampleReader {}
