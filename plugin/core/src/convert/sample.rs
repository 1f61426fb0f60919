//! A sample and its JSON, which `convert` writes and the ABI's calls for single records exchange.

use std::borrow::Cow;

use ndarray::Array2;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::record::{Message, Prompt};
use crate::{Error, Result};

/// How far each row of a caller's target distributions may miss a sum of 1.
const PI_TOLERANCE: f64 = 1e-3;

/// A prompt with its responses and, per dimension, the target distribution over them.
///
/// A pair is one dimension, `preference`, with target (1, 0) over (chosen, rejected). A conversation has no responses
/// and no dimensions: its prompt holds all turns, and every assistant turn is a target.
///
/// # Shapes
///
/// `ratings` and `pi_target` are `[M, N]`; NaN (`null` in JSON) if a rating is missing or a target masked.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Index of the record in the concatenated inputs.
    pub record_index: u64,
    /// The prompt.
    pub prompt: Prompt,
    /// Descriptions of the tools that the model may call, a list for the chat template.
    pub tools: Option<Value>,
    /// N responses.
    pub responses: Vec<String>,
    /// Fields of each response besides its text, for the chat template (`reasoning_content`, `tool_calls`, …): N, or
    /// none if no response has any.
    pub response_extras: Vec<Map<String, Value>>,
    /// M names.
    pub dimensions: Vec<String>,
    /// Ratings.
    pub ratings: Array2<f64>,
    /// Target distributions p^(k) (13).
    pub pi_target: Array2<f64>,
}

impl Sample {
    /// Returns the sample as one line of JSON. Numbers read back to the last bit.
    ///
    /// # Errors
    ///
    /// Never in practice: every sample can be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::InvalidData(format!("the sample cannot be written: {error}")))
    }

    /// Parses a sample. `ratings` may be left out (all missing), and so may `record` (0).
    ///
    /// # Errors
    ///
    /// Returns an error if the JSON is invalid or the shapes of its fields do not agree.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| Error::InvalidData(format!("not a valid sample: {error}")))
    }

    /// Returns the fields that are written, with another form of the prompt.
    pub(super) fn written<'a>(&'a self, prompt: &'a Prompt) -> Written<'a> {
        Written {
            prompt,
            tools: self.tools.as_ref(),
            responses: &self.responses,
            response_extras: &self.response_extras,
            dimensions: &self.dimensions,
            ratings: to_rows(&self.ratings),
            pi_target: to_rows(&self.pi_target),
            record: self.record_index,
        }
    }

    /// Returns a response as the turn that follows the prompt.
    pub(crate) fn answer(&self, response_index: usize) -> Message {
        let text = self.responses.get(response_index).map_or("", String::as_str);
        let extras = self.response_extras.get(response_index).cloned().unwrap_or_default();
        Message { extras, ..Message::new("assistant", text) }
    }

    /// Whether this is a conversation, in which every assistant turn is a target.
    pub fn is_conversation(&self) -> bool {
        self.responses.is_empty() && self.dimensions.is_empty()
    }
}

pub(crate) type Rows = Vec<Vec<Option<f64>>>;

/// Fields in the order in which they are written.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    prompt: &'a Prompt,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a Value>,
    responses: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    response_extras: &'a [Map<String, Value>],
    dimensions: &'a [String],
    ratings: Rows,
    pi_target: Rows,
    record: u64,
}

impl<'a> Written<'a> {
    /// Returns the fields with another form of the tools.
    pub(super) fn with_tools(self, tools: Option<&'a Value>) -> Self {
        Self { tools, ..self }
    }
}

/// A prompt with N responses and, for each of M dimensions, the target distribution over them.
#[derive(Deserialize, JsonSchema)]
struct Read {
    /// A text (one user turn), or a conversation so far; in a sample without responses, the whole conversation.
    prompt: Prompt,
    /// Descriptions of the tools that the model may call, for the chat template: a list, or its JSON as text.
    #[serde(default)]
    tools: Option<Tools>,
    /// N responses.
    responses: Vec<String>,
    /// Fields of each response besides its text, for the chat template: N objects, or none.
    #[serde(default)]
    response_extras: Vec<Map<String, Value>>,
    /// M names.
    dimensions: Vec<String>,
    /// `[M][N]`; null if missing.
    #[serde(default)]
    ratings: Option<Rows>,
    /// `[M][N]`; null if masked. The rest of each row sums to 1.
    pi_target: Rows,
    /// Index of the record in its inputs, from 0.
    #[serde(default)]
    record: u64,
}

/// A list of tools, or its JSON as text, as a column of a table holds it.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Tools {
    List(Vec<Map<String, Value>>),
    Text(String),
}

impl Tools {
    fn into_list(self) -> std::result::Result<Option<Value>, String> {
        let list = match self {
            Self::List(list) => list,
            Self::Text(text) if text.trim().is_empty() => Vec::new(),
            Self::Text(text) => serde_json::from_str(&text)
                .map_err(|error| format!("`tools` is text that is no JSON list of objects: {error}"))?,
        };
        Ok((!list.is_empty()).then(|| list.into()))
    }
}

impl JsonSchema for Sample {
    fn schema_name() -> Cow<'static, str> {
        "Sample".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Read::json_schema(generator)
    }
}

impl Serialize for Sample {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.written(&self.prompt).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sample {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Read::deserialize(deserializer)?.into_sample().map_err(serde::de::Error::custom)
    }
}

impl Read {
    fn into_sample(self) -> std::result::Result<Sample, String> {
        let shape = (self.dimensions.len(), self.responses.len());
        let ratings = match self.ratings {
            Some(rows) => to_array(rows, shape, "ratings")?,
            None => Array2::from_elem(shape, f64::NAN),
        };
        let pi_target = to_targets(self.pi_target, shape, |k| format!("`pi_target` of `{}`", self.dimensions[k]))?;
        if ![0, self.responses.len()].contains(&self.response_extras.len()) {
            let found = self.response_extras.len();
            return Err(format!("`response_extras` has {found} objects for {} responses", self.responses.len()));
        }
        Ok(Sample {
            record_index: self.record,
            prompt: self.prompt,
            tools: self.tools.map(Tools::into_list).transpose()?.flatten(),
            responses: self.responses,
            response_extras: self.response_extras,
            dimensions: self.dimensions,
            ratings,
            pi_target,
        })
    }
}

/// Checks a caller's `pi_target`: it is `[M, N]`, without negative numbers, and each row sums to 1 unless all of it is
/// masked. `name` returns the name of a row for errors.
pub(crate) fn to_targets(
    rows: Rows,
    shape: (usize, usize),
    name: impl Fn(usize) -> String,
) -> std::result::Result<Array2<f64>, String> {
    let pi_target = to_array(rows, shape, "pi_target")?;
    for (k, row) in pi_target.rows().into_iter().enumerate() {
        let targets = || row.iter().filter(|p| !p.is_nan());
        if targets().any(|&p| p < 0.0) {
            return Err(format!("{} has a negative number", name(k)));
        }
        let sum: f64 = targets().sum();
        if targets().count() > 0 && (sum - 1.0).abs() > PI_TOLERANCE {
            return Err(format!("{} sums to {sum}: a distribution sums to 1", name(k)));
        }
    }
    Ok(pi_target)
}

pub(crate) fn to_rows(array: &Array2<f64>) -> Rows {
    let value = |&value: &f64| value.is_finite().then_some(value);
    array.rows().into_iter().map(|row| row.iter().map(value).collect()).collect()
}

fn to_array(rows: Rows, shape: (usize, usize), field: &str) -> std::result::Result<Array2<f64>, String> {
    let (m, n) = shape;
    if rows.len() != m {
        return Err(format!("`{field}` has {} rows for {m} dimensions", rows.len()));
    }
    if let Some((k, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != n) {
        return Err(format!("`{field}[{k}]` has {} numbers for {n} responses", row.len()));
    }
    let values = rows.into_iter().flatten().map(|value| value.unwrap_or(f64::NAN)).collect();
    Array2::from_shape_vec(shape, values).map_err(|error| error.to_string())
}
