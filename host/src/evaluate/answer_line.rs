//! A line of `answers.jsonl`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answers::rater::Scores;

/// An answer of the policy, beside the one that it was compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerLine {
    /// Everything that the file of prompts says about the prompt; of a record, `prompt`: its text, or its messages.
    #[serde(flatten)]
    pub prompt: Map<String, Value>,
    /// Number of the answer among those to the same prompt.
    pub sample: usize,
    /// Text of the answer.
    pub response: String,
    /// Number of its tokens, with the end token.
    pub num_tokens: usize,
    /// `stop` if the model ended it, `length` if it has as many tokens as it may have.
    pub finish_reason: String,
    /// Its scores; absent without a judge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// The answer that it was compared with; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

/// An answer that the policy's is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Text of the answer.
    pub response: String,
    /// Its scores.
    pub scores: Scores,
}
