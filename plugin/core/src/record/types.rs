//! A record: a prompt with its responses, and their ratings.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// `system`, `user`, `assistant`, ….
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// Whether the model says this.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

/// What the model responds to: a text (one user turn), or a conversation so far.
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
    /// No rating, with the kind under which it is reported: `absent`, `null`, `empty`, `N/A`, `nan`, `inf`, `text`,
    /// `boolean`, `list` or `object`.
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
    /// A prompt with rated responses (`Format::UltraFeedback`).
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
}
