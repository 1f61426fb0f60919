//! Options of the conversion.

use serde::{Serialize, Serializer};

use crate::{Error, Format, Result};

/// Replacement of a missing rating.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum MissingRating {
    /// Nothing: the response is left out of that dimension's softmax.
    Mask,
    /// A number (1.0 in the paper).
    Value(f64),
}

/// How records are converted to samples; fields as in the ABI's `ConvertOptions`.
#[derive(Clone, Debug, Serialize)]
pub struct ConvertOptions {
    /// Schema of the files.
    #[serde(serialize_with = "as_code")]
    pub format: Format,
    /// Reduce each rated or ranked record to its best and worst responses by mean rating.
    pub best_worst_pairs: bool,
    /// Names in order; None means all names that the inputs use, sorted.
    pub dimensions: Option<Vec<String>>,
    /// Replacement of a missing rating.
    pub missing_rating: MissingRating,
    /// Temperature of the softmax over ratings (13).
    pub temperature: f64,
    /// Maximum number of records to read.
    pub max_samples: Option<u64>,
    /// Sources of records to leave out.
    pub exclude_sources: Vec<String>,
    /// Keep every record that parses, whatever its ratings and its number of responses.
    pub keep_all: bool,
}

fn as_code<S: Serializer>(format: &Format, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_u32(format.code())
}

impl ConvertOptions {
    /// Returns the defaults for a format: all dimensions, missing ratings masked, temperature 1, nothing left out.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            best_worst_pairs: false,
            dimensions: None,
            missing_rating: MissingRating::Mask,
            temperature: 1.0,
            max_samples: None,
            exclude_sources: Vec::new(),
            keep_all: false,
        }
    }

    /// Whether each dimension of a record's ratings becomes a target distribution.
    pub(super) fn uses_dimensions(&self) -> bool {
        self.format.has_dimensions() && !self.best_worst_pairs
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |problem: String| Err(Error::InvalidArgument(problem));
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return invalid(format!("temperature is {}: it must be a finite number above 0", self.temperature));
        }
        if let MissingRating::Value(value) = self.missing_rating
            && !value.is_finite()
        {
            return invalid(format!("missing_rating is {value}: it must be \"mask\" or a finite number"));
        }
        if self.best_worst_pairs && self.keep_all {
            return invalid("best_worst_pairs and keep_all contradict each other: ties have no best response".into());
        }
        if let Some(names) = &self.dimensions {
            if names.is_empty() {
                return invalid("dimensions is empty: name at least one, or leave it out to use all".into());
            }
            if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
                return invalid(format!("dimensions names `{}` twice", twice.1));
            }
        }
        Ok(())
    }
}
