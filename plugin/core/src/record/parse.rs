//! One row's JSON → a [`Record`], by [`Format`].

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::answers::{check_context, parse_answer, parse_prompt_of_answers};
use super::fields::{self, SYSTEM};
use super::json::{self, NotJson};
use super::messages::{Fill, MESSAGES, type_name, unexpected};
use super::prompt::{Extras, Parsed, Row, parse_conversation, parse_tools, present, with_system};
use super::ranked::parse_ranked;
use super::rated::parse_rated;
use super::types::{Body, Prompt, Record};
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
        Format::Rankings => parse_ranked(row, fill, &mut ignored),
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
        Format::Rankings => &["prompt", "messages", "conversations", "responses", "rankings", "source"],
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
        Format::Rankings => has("responses") && has("rankings"),
    };
    let (other, field) = if has("completions") {
        (Format::UltraFeedback, "completions")
    } else if has("responses") && has("rankings") {
        (Format::Rankings, "rankings")
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
    let chosen = parse_answer(row.get("chosen"), "chosen", fill)?;
    let rejected = parse_answer(row.get("rejected"), "rejected", fill)?;
    check_context(("chosen", &chosen), ("rejected", &rejected))?;
    let prompt = parse_prompt_of_answers(row, chosen.context, fill, ignored)?;
    let body = Body::Pair { chosen: chosen.text, rejected: rejected.text };
    Ok((prompt, body, vec![chosen.extras, rejected.extras]))
}

// ---- Format::Chat ----

fn parse_chat(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<(Prompt, Body, Extras)> {
    match parse_conversation(row, fill, ignored)? {
        Some(messages) => Ok((Prompt::Messages(messages), Body::Conversation, Vec::new())),
        None => Err(unexpected("messages", row.get("messages"), MESSAGES)),
    }
}
