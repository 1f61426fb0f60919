//! One row's JSON → a [`Record`], by [`Format`].

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::fields::{self, SYSTEM, refuse_beside};
use super::json::{self, NotJson};
use super::messages::{Fill, MESSAGES, parse_message, parse_messages, type_name, unexpected};
use super::prompt::{Extras, Parsed, Row, parse_conversation, parse_prompt, parse_tools, present, with_system};
use super::rated::parse_rated;
use super::types::{Body, Message, Prompt, Record, WEIGHT};
use crate::Format;

/// Problem with a row.
pub(crate) enum Problem {
    /// It is not JSON.
    Json(NotJson),
    /// It is not a record of the format.
    Record(String),
}

impl Problem {
    /// Returns the problem as a clause; `start` is the line and column of the row's first character if it may span
    /// lines.
    pub(crate) fn text(&self, start: Option<(usize, usize)>) -> String {
        match self {
            Self::Record(problem) => problem.clone(),
            Self::Json(problem) => problem.text(start),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(None))
    }
}

impl Record {
    /// Parses one row's JSON. `NaN`, which is no JSON but what Python writes, is read as a missing value.
    ///
    /// # Errors
    ///
    /// Returns the problem as a clause without a place ("`completions` is missing: …"); the caller knows the file and
    /// line.
    pub fn parse(json: &str, format: Format, index: u64) -> std::result::Result<Self, String> {
        parse(json, format, index, Fill::Nothing).map_err(|problem| problem.to_string())
    }
}

pub(super) fn parse(text: &str, format: Format, index: u64, fill: Fill) -> Result<Record, Problem> {
    let value = json::parse(text.trim_end()).map_err(Problem::Json)?;
    let Value::Object(row) = value else {
        return Err(Problem::Record(format!("the record is {}: expected an object", type_name(&value))));
    };
    parse_row(&row, format, index, fill).map_err(|problem| Problem::Record(hint(&row, format, problem)))
}

fn parse_row(row: &Row, format: Format, index: u64, fill: Fill) -> Parsed<Record> {
    let mut ignored = BTreeSet::new();
    let (prompt, body, mut response_extras) = match format {
        Format::UltraFeedback => parse_rated(row, fill, &mut ignored),
        Format::Pairs => parse_pair(row, fill, &mut ignored),
        Format::Chat => parse_chat(row, fill, &mut ignored),
    }?;
    fields::refuse(row)?;
    let prompt = with_system(row, prompt)?;
    let tools = parse_tools(row, fill)?;
    let read = fields_of(format);
    let unused = row.iter().filter(|(key, value)| {
        let key = key.as_str();
        !value.is_null() && !read.contains(&key) && !SYSTEM.contains(&key) && !matches!(key, "tools" | "metadata")
    });
    ignored.extend(unused.map(|(key, _)| key.clone()));
    if response_extras.iter().all(Map::is_empty) {
        response_extras.clear();
    }
    Ok(Record { index, source: parse_source(row, &mut ignored), prompt, body, response_extras, tools, ignored })
}

/// Returns the fields that hold a format's prompt and responses.
fn fields_of(format: Format) -> &'static [&'static str] {
    match format {
        Format::UltraFeedback => &["instruction", "prompt", "completions", "source"],
        Format::Pairs => &["prompt", "messages", "conversations", "chosen", "rejected", "source"],
        Format::Chat => &["messages", "conversations", "source"],
    }
}

fn parse_source(row: &Row, ignored: &mut BTreeSet<String>) -> Option<String> {
    let metadata = present(row, "metadata");
    let in_metadata =
        || metadata?.get("source").filter(|source| !source.is_null()).map(|source| ("metadata.source", source));
    let (field, source) = present(row, "source").map(|source| ("source", source)).or_else(in_metadata)?;
    if !source.is_string() {
        ignored.insert(field.to_owned());
    }
    source.as_str().map(str::to_owned)
}

/// Adds to a problem that the record looks like one of another format, if it lacks the fields of this one.
fn hint(row: &Row, format: Format, problem: String) -> String {
    let has = |key: &str| row.contains_key(key);
    let is_whole = match format {
        Format::UltraFeedback => has("completions"),
        Format::Pairs => has("chosen") && has("rejected"),
        Format::Chat => has("messages") || has("conversations"),
    };
    let (other, field) = if has("completions") {
        (Format::UltraFeedback, "completions")
    } else if has("chosen") && has("rejected") {
        (Format::Pairs, "chosen")
    } else if has("messages") || has("conversations") {
        (Format::Chat, if has("messages") { "messages" } else { "conversations" })
    } else {
        return problem;
    };
    if other == format || is_whole {
        return problem;
    }
    format!("{problem}; the record has `{field}`: set the format to `{other}`")
}

// ---- Format::Pairs ----

fn parse_pair(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<(Prompt, Body, Extras)> {
    let (chosen_context, chosen, chosen_extras) = parse_answer(row, "chosen", fill)?;
    let (rejected_context, rejected, rejected_extras) = parse_answer(row, "rejected", fill)?;
    if chosen_context != rejected_context {
        return Err("`chosen` and `rejected` differ before their last turn: expected conversations that share every turn but the last".into());
    }
    let prompt = pair_prompt(row, chosen_context, fill, ignored)?;
    Ok((prompt, Body::Pair { chosen, rejected }, vec![chosen_extras, rejected_extras]))
}

/// Turns before an answer, its text, and its other fields.
type Answer = (Vec<Message>, String, Map<String, Value>);

/// Returns the turns before the answer, and the answer; a text has no turns before it.
fn parse_answer(row: &Row, key: &str, fill: Fill) -> Parsed<Answer> {
    match row.get(key) {
        Some(Value::String(answer)) => Ok((Vec::new(), answer.clone(), Map::new())),
        Some(value @ Value::Object(_)) if json::literal(value).is_none() => {
            split_answer(vec![parse_message(value, key, fill)?], key)
        }
        Some(messages @ Value::Array(_)) => split_answer(parse_messages(messages, key, fill)?, key),
        other => Err(unexpected(key, other, &format!("text, a message, or {MESSAGES}"))),
    }
}

fn split_answer(mut messages: Vec<Message>, key: &str) -> Parsed<Answer> {
    let answer = match messages.pop() {
        Some(last) if last.is_assistant() => last,
        Some(last) => return Err(format!("`{key}` ends with a {:?} turn: expected an assistant turn", last.role)),
        None => return Err(format!("`{key}` is empty: expected {MESSAGES}")),
    };
    if !answer.is_target()? {
        return Err(format!(
            "the last turn of `{key}` has a {WEIGHT} of 0, but both answers of a pair are compared: leave the record out"
        ));
    }
    match answer.content {
        Some(content) => Ok((messages, content, answer.extras)),
        None => Err(format!("the last turn of `{key}` has no content: write an empty text if it only calls tools")),
    }
}

/// Finds the prompt in its own field, at the start of `chosen` and `rejected`, or in both.
fn pair_prompt(row: &Row, context: Vec<Message>, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<Prompt> {
    let own = match present(row, "prompt") {
        Some(prompt) => {
            refuse_beside(row, "prompt")?;
            ignored.extend(
                ["messages", "conversations"].into_iter().filter_map(|key| present(row, key).map(|_| key.into())),
            );
            Some(parse_prompt(prompt, "prompt", fill)?)
        }
        None => parse_chat_prompt(row, fill, ignored)?.map(Prompt::Messages),
    };
    match own {
        None if context.is_empty() => Err(unexpected("prompt", row.get("prompt"), &format!("text or {MESSAGES}"))),
        None => Ok(Prompt::Messages(context)),
        Some(own) if context.is_empty() => Ok(own),
        // A context that starts with a user (or system) turn is a whole conversation, which repeats the text.
        Some(Prompt::Text(text)) if !context[0].is_assistant() => {
            let repeats =
                |message: &Message| message.content.as_ref().is_some_and(|content| content.trim() == text.trim());
            if !context.iter().any(repeats) {
                ignored.insert("prompt".to_owned());
            }
            Ok(Prompt::Messages(context))
        }
        Some(own) => {
            let mut messages = own.to_messages();
            if context.starts_with(&messages) || context.ends_with(&messages) {
                return Ok(Prompt::Messages(context));
            }
            messages.extend(context);
            Ok(Prompt::Messages(messages))
        }
    }
}

// ---- Format::Chat ----

fn parse_chat(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<(Prompt, Body, Extras)> {
    match parse_chat_prompt(row, fill, ignored)? {
        Some(messages) => Ok((Prompt::Messages(messages), Body::Conversation, Vec::new())),
        None => Err(unexpected("messages", row.get("messages"), MESSAGES)),
    }
}

fn parse_chat_prompt(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<Option<Vec<Message>>> {
    let Some((key, messages)) = parse_conversation(row, fill)? else { return Ok(None) };
    if key == "messages" && present(row, "conversations").is_some_and(|other| Some(other) != row.get("messages")) {
        ignored.insert("conversations".to_owned());
    }
    Ok(Some(messages))
}
