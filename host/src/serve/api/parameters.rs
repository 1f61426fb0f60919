//! The fields that chats and completions share.

use serde_json::Value;

use crate::generate::GenerateOptions;
use crate::serve::error::ApiError;
use crate::serve::state::random;

use super::fields::{Fields, shown};

/// Stop strings in a request, at most, as in OpenAI's API.
const MOST_STOPS: usize = 4;
/// Answers to one prompt, at most, as in OpenAI's API.
const MOST_CHOICES: usize = 128;

/// Fields of OpenAI's API that are not implemented, with the values at which they change nothing. Those that never change
/// the text (`user`, `store`, `metadata`, `service_tier`, `prediction`, …) are ignored like unknown ones.
const UNSUPPORTED: [(&str, &[&str]); 14] = [
    ("presence_penalty", &["0"]),
    ("frequency_penalty", &["0"]),
    ("logit_bias", &["{}"]),
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\"", "\"auto\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\"", "\"auto\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("modalities", &["[\"text\"]"]),
    ("audio", &[]),
    ("reasoning_effort", &["\"none\""]),
    ("verbosity", &["\"medium\""]),
    ("web_search_options", &[]),
    ("suffix", &["\"\""]),
];

/// How to sample, when to stop, and how to answer.
#[derive(Clone, Debug)]
pub(in crate::serve) struct Parameters {
    /// Answers to each prompt.
    pub(in crate::serve) num_choices: usize,
    /// Temperature, top-p, seed; the length is the plan's.
    pub(in crate::serve) options: GenerateOptions,
    /// Tokens to generate, at most; None leaves it to the route.
    pub(super) max_tokens: Option<usize>,
    /// Strings before which a text ends.
    pub(in crate::serve) stops: Vec<String>,
    /// Whether to answer in events.
    pub(in crate::serve) is_streamed: bool,
    /// Whether a stream ends with the usage.
    pub(in crate::serve) include_usage: bool,
}

impl Parameters {
    /// Reads the fields.
    ///
    /// # Errors
    ///
    /// Returns 400 that names the field.
    pub(super) fn read(fields: Fields, least_tokens: usize) -> Result<Self, ApiError> {
        fields.refuse(&UNSUPPORTED)?;
        let num_choices = fields.size("n", 1, MOST_CHOICES)?.unwrap_or(1);
        let temperature = fields.number("temperature", "a number of at least 0", |number| number >= 0.0)?;
        let top_p = fields.number("top_p", "a number above 0 and at most 1", |number| number > 0.0 && number <= 1.0)?;
        let options = GenerateOptions {
            max_new_tokens: 0,
            temperature: temperature.unwrap_or(1.0),
            top_p: top_p.unwrap_or(1.0),
            seed: seed(fields)?,
            eos_token_ids: Vec::new(),
        };
        let is_streamed = fields.flag("stream")?.unwrap_or(false);
        let include_usage = match fields.get("stream_options") {
            None => false,
            Some(_) if !is_streamed => {
                return Err(ApiError::field(
                    "stream_options",
                    "`stream_options` is only allowed when `stream` is true",
                ));
            }
            Some(options @ Value::Object(_)) => Fields::of(options)?.flag("include_usage")?.unwrap_or(false),
            Some(other) => {
                let message = format!("`stream_options` must be an object, not {}", shown(other));
                return Err(ApiError::field("stream_options", message));
            }
        };
        let max_tokens = max_tokens(fields, least_tokens)?;
        Ok(Self { num_choices, options, max_tokens, stops: stops(fields)?, is_streamed, include_usage })
    }
}

/// Reads the seed; without one, a random seed below 2^53, which JSON readers of every language keep.
fn seed(fields: Fields) -> Result<u64, ApiError> {
    let whole = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    Ok(fields.typed("seed", whole, "a whole number of 64 bits")?.unwrap_or_else(|| random() >> 11))
}

fn max_tokens(fields: Fields, least: usize) -> Result<Option<usize>, ApiError> {
    let old = fields.size("max_tokens", least, usize::MAX)?;
    let new = fields.size("max_completion_tokens", least, usize::MAX)?;
    match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let message = format!("`max_tokens` is {old} and `max_completion_tokens` is {new}: give one of them");
            Err(ApiError::field("max_tokens", message))
        }
        _ => Ok(new.or(old)),
    }
}

fn stops(fields: Fields) -> Result<Vec<String>, ApiError> {
    let texts = |value: &Value| match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let is_valid = |texts: &Vec<String>| texts.len() <= MOST_STOPS && texts.iter().all(|text| !text.is_empty());
    let expected = format!("a string, or a list of at most {MOST_STOPS} strings, none of them empty");
    Ok(fields.typed("stop", |value| texts(value).filter(is_valid), &expected)?.unwrap_or_default())
}
