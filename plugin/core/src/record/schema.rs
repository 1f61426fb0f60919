//! The JSON of a record as types, only for its JSON Schema: `parse` reads what these describe, and accepts more as a
//! rating: everything that is not a number counts as missing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::types::{Message, Record};

impl JsonSchema for Record {
    fn schema_name() -> Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RecordJson::json_schema(generator)
    }
}

/// One record: rated completions (UltraFeedback's schema), ranked responses, a pair, or a conversation. Other fields
/// have no effect, and are counted and reported; those that would have to change what is trained are errors.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum RecordJson {
    Rated(Rated),
    Ranked(Ranked),
    Pair(Box<Pair>),
    Chat(Chat),
}

/// A prompt with rated completions (format `ultrafeedback`).
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [{ "required": ["instruction"] }, { "required": ["prompt"] }]))]
#[expect(dead_code, reason = "only its schema is used")]
struct Rated {
    /// The prompt; takes precedence over `prompt`.
    #[serde(default)]
    instruction: Option<Text>,
    /// The prompt under its other name.
    #[serde(default)]
    prompt: Option<Text>,
    /// The responses.
    completions: Vec<Completion>,
    #[serde(flatten)]
    shared: Shared,
}

/// Fields of every format.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Shared {
    /// A system prompt before the prompt, also as `system_prompt`, `system_message`, `system_instruction`,
    /// `systemprompt` or `sys_prompt`.
    #[serde(default)]
    system: Option<String>,
    /// Descriptions of the tools that the model may call, for the chat template: a list, or its JSON as text.
    #[serde(default)]
    tools: Option<Tools>,
    /// Source of the record; see `exclude_sources`.
    #[serde(default)]
    source: Option<String>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Tools {
    List(Vec<Tool>),
    Text(String),
}

/// A tool, or its JSON as text.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Tool {
    Object(BTreeMap<String, serde_json::Value>),
    Text(String),
}

/// A response with its ratings.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Completion {
    /// The response.
    response: String,
    /// Ratings by dimension, or as a list that names its dimensions.
    #[serde(default)]
    annotations: Option<Annotations>,
    /// What the model thinks before it answers, for the chat template; also as `reasoning` or `thinking`.
    #[serde(default)]
    reasoning_content: Option<String>,
    /// The tools that the answer calls, for the chat template.
    #[serde(default)]
    tool_calls: Option<Vec<serde_json::Value>>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Annotations {
    ByDimension(BTreeMap<String, Annotation>),
    List(Vec<NamedAnnotation>),
}

/// A rating in one dimension, alone or in an object with other fields; in a list, the first usable one counts.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Annotation {
    Rated {
        #[serde(rename = "Rating")]
        rating: Option<Rating>,
    },
    List(Vec<Annotation>),
    Rating(Rating),
    Missing(()),
}

/// A rating that names its dimension.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct NamedAnnotation {
    /// The dimension.
    #[serde(rename = "Type")]
    dimension: String,
    /// The rating.
    #[serde(rename = "Rating", default)]
    rating: Option<Rating>,
}

/// A finite number, or one as text; "N/A", "NaN", "" and other text are a missing rating.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Rating {
    Number(f64),
    Text(String),
}

/// Where the prompt of several answers may be.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct PromptPlaces {
    /// The prompt.
    #[serde(default)]
    prompt: Option<Text>,
    /// The prompt in the form of ShareGPT's pairs.
    #[serde(default)]
    conversations: Option<Turns>,
    /// The prompt as messages.
    #[serde(default)]
    messages: Option<Turns>,
}

/// A prompt with ranked responses (format `rankings`). The prompt is in `prompt`, in `conversations` or `messages`, or
/// at the start of all responses.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Ranked {
    #[serde(flatten)]
    places: PromptPlaces,
    /// The responses.
    #[schemars(length(min = 1))]
    responses: Vec<Answer>,
    /// By dimension a rank for each response, from 1 for the best; equal ones tie, and places have no gaps: 1, 2, 2, 3.
    /// Null: the response, or all of them, are not ranked.
    rankings: BTreeMap<String, Option<Vec<Option<Rank>>>>,
    #[serde(flatten)]
    shared: Shared,
}

/// A place, from 1 for the best, or one as text; "N/A", "NaN", "" and other text are a missing rank.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Rank {
    Place(#[schemars(range(min = 1))] u64),
    Text(String),
}

/// A chosen and a rejected response (format `pairs`). The prompt is in `prompt`, in `conversations` or `messages`, or
/// at the start of both responses.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Pair {
    #[serde(flatten)]
    places: PromptPlaces,
    /// The better response.
    chosen: Answer,
    /// The worse response.
    rejected: Answer,
    #[serde(flatten)]
    shared: Shared,
}

/// A conversation in which every assistant turn is a target (format `chat`).
#[derive(JsonSchema)]
#[schemars(extend("anyOf" = [{ "required": ["messages"] }, { "required": ["conversations"] }]))]
#[expect(dead_code, reason = "only its schema is used")]
struct Chat {
    /// The conversation.
    #[serde(default)]
    messages: Option<Turns>,
    /// The conversation under ShareGPT's name.
    #[serde(default)]
    conversations: Option<Turns>,
    #[serde(flatten)]
    shared: Shared,
}

/// A text (one user turn), or a conversation so far.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Text {
    Text(String),
    Turns(Turns),
}

/// A response as text, as one message, or at the end of a conversation.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Answer {
    Text(String),
    Turn(Turn),
    Turns(Turns),
}

/// A conversation of at least one turn.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Turns(#[schemars(length(min = 1))] Vec<Turn>);

/// A turn as `{role, content}`, or as ShareGPT's `{from, value}`. Its other fields reach the chat template
/// (`tool_calls`, `reasoning_content`, …), except that a `weight`, `train`, `training` or `loss` of 0 or false takes an
/// assistant turn out of the targets.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Turn {
    Message(Message),
    ShareGpt {
        /// `human`, `gpt`, `system` or `observation`.
        from: ShareGptRole,
        value: String,
    },
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its schema is used")]
enum ShareGptRole {
    Human,
    User,
    Gpt,
    Assistant,
    System,
    Observation,
    Tool,
}
