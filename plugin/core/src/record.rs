//! Stage 1: record files → [`Record`]s.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The schema of a record file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instruction` and rated `completions`.
    UltraFeedback,
    /// `prompt`, `chosen`, `rejected`, as text or messages, or LLaMA-Factory's ShareGPT pairs.
    Pairs,
    /// `messages`, or ShareGPT's `conversations`.
    Chat,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, ….
    pub role: String,
    /// The text.
    pub content: String,
}

/// What the model answers: a text (one user turn) or a conversation so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// One user turn.
    Text(String),
    /// A conversation.
    Messages(Vec<Message>),
}

/// A rating as found in a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Rating {
    /// A finite number.
    Value(f64),
    /// Why there is none: `absent`, `null`, `""`, `"N/A"`, `nan`, …; the kind under which it is reported.
    Missing(String),
}

/// One response of a record, with its ratings by dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The response's text.
    pub response: String,
    /// Ratings by dimension, in the record's order.
    pub ratings: IndexMap<String, Rating>,
}

/// What a row of a record file holds.
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
    /// A conversation whose assistant turns are all to be learned (`Format::Chat`); the prompt holds all of it.
    Conversation,
}

/// One row of a record file.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Position in the concatenated inputs, before any filtering.
    pub index: u64,
    /// The row's `source`, where it has one.
    pub source: Option<String>,
    /// The prompt, or the whole conversation.
    pub prompt: Prompt,
    /// The rest.
    pub body: Body,
}

/// Streams the records of files in order.
#[derive(Debug)]
pub struct RecordReader {}

impl RecordReader {
    /// Opens the first file and checks that the others exist.
    pub fn open(_paths: &[PathBuf], _format: Format) -> Result<Self> {
        Ok(Self {})
    }
}
