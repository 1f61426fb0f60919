//! A record: a prompt with its responses, and their ratings.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenMessage")]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, ….
    pub role: String,
    /// The text; None for a turn that only calls tools.
    pub content: Option<String>,
    /// Every other field, for the chat template: `tool_calls`, `reasoning_content`, `name`, …. A `weight` of 0 means
    /// that an assistant turn is no target.
    #[serde(flatten)]
    pub extras: Map<String, Value>,
}

/// One turn of a conversation. Fields besides these reach the chat template as they are.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("anyOf" = [
    { "required": ["content"], "properties": { "content": { "type": "string" } } },
    { "required": ["tool_calls"] },
    { "required": ["function_call"] },
]))]
struct WrittenMessage {
    /// `system`, `user`, `assistant`, `tool`, ….
    role: String,
    /// The text; null only if the turn calls tools.
    #[serde(default)]
    content: Option<String>,
    #[serde(flatten)]
    extras: Map<String, Value>,
}

impl TryFrom<WrittenMessage> for Message {
    type Error = String;

    fn try_from(written: WrittenMessage) -> Result<Self, String> {
        let WrittenMessage { role, content, extras } = written;
        let message = Self { role, content, extras };
        if message.content.is_none() && !message.calls_tools() {
            return Err("missing field `content`".to_owned());
        }
        message.is_target()?;
        Ok(message)
    }
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(content.into()), extras: Map::new() }
    }

    /// Whether the model says this.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }

    /// Whether the model says this and learns to: an assistant turn without a `weight`, or with a weight of 1.
    ///
    /// # Errors
    ///
    /// Returns an error if the weight is neither 0 nor 1.
    pub fn is_target(&self) -> Result<bool, String> {
        match self.extras.get(WEIGHT) {
            None => Ok(self.is_assistant()),
            Some(weight) => match switch(weight) {
                Some(on) => Ok(on && self.is_assistant()),
                None => Err(format!("`{WEIGHT}` is {weight}: a turn is a target (1) or it is not (0)")),
            },
        }
    }

    /// Whether a field is set that calls a tool.
    pub(crate) fn calls_tools(&self) -> bool {
        CALLS.iter().any(|key| self.extras.get(*key).is_some_and(is_set))
    }
}

/// The field of a message that says whether an assistant turn is a target.
pub(crate) const WEIGHT: &str = "weight";
/// Fields of a message that call tools.
pub(crate) const CALLS: &[&str] = &["tool_calls", "function_call"];
/// Fields of a message that hold what the model thinks before it answers.
pub(crate) const REASONING: &[&str] = &["reasoning_content", "reasoning", "thinking"];

/// Whether a value says anything: it is neither null nor an empty text, list or object.
pub(crate) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Reads true or 1, false or 0; None for anything else.
pub(crate) fn switch(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::Number(number) if number.as_f64() == Some(1.0) => Some(true),
        Value::Number(number) if number.as_f64() == Some(0.0) => Some(false),
        _ => None,
    }
}

/// A prompt: a text (one user turn), or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// One user turn.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

impl Prompt {
    /// Returns the prompt as messages: a text is one `user` message.
    pub fn to_messages(&self) -> Vec<Message> {
        match self {
            Self::Text(text) => vec![Message::new("user", text)],
            Self::Messages(messages) => messages.clone(),
        }
    }
}

/// A rating in a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Rating {
    /// A finite number.
    Value(f64),
    /// No rating, with the kind under which it is reported: `absent`, `null`, `empty`, `N/A`, `nan`, `text`, `boolean`,
    /// `list` or `object`.
    Missing(&'static str),
}

/// One response of a record, with its ratings by dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The response's text.
    pub response: String,
    /// Ratings by dimension, in the record's order.
    pub ratings: IndexMap<String, Rating>,
}

/// The part of a record that depends on its format.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// A prompt with rated responses (`Format::UltraFeedback`), or with ranked ones, whose ranks are ratings one point
    /// apart (`Format::Rankings`).
    Rated(Vec<Completion>),
    /// A prompt with a chosen and a rejected response (`Format::Pairs`).
    Pair {
        /// The better response.
        chosen: String,
        /// The worse response.
        rejected: String,
    },
    /// A conversation, all of whose assistant turns are targets (`Format::Chat`); the prompt holds all of it.
    Conversation,
}

/// One row of a record file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Index in the concatenated inputs, before any filtering.
    pub index: u64,
    /// The row's `source` (or `metadata.source`), if it has one.
    pub source: Option<String>,
    /// The prompt, or the whole conversation.
    pub prompt: Prompt,
    /// The responses.
    pub body: Body,
    /// Fields of each answer besides its text, for the chat template: `reasoning_content`, `tool_calls`, …; empty if no
    /// answer has any.
    pub response_extras: Vec<Map<String, Value>>,
    /// Descriptions of the tools that the model may call, for the chat template: a list, or None.
    pub tools: Option<Value>,
    /// Names of the fields that have a value and no effect, such as `completions[].model`.
    pub ignored: BTreeSet<String>,
}
