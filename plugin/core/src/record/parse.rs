//! One row's JSON → a [`Record`], by [`Format`].

use std::fmt;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::messages::{MESSAGES, parse_message, parse_messages, type_name, unexpected};
use super::types::{Body, Completion, Message, Prompt, Rating, Record};
use crate::Format;

type Row = Map<String, Value>;
type Parsed<T> = Result<T, String>;

/// Problem with a row.
pub(crate) enum Problem {
    /// It is not JSON.
    Json(serde_json::Error),
    /// It is not a record of the format.
    Record(String),
}

impl Problem {
    /// Returns the problem as a clause; `start` is the line and column of the row's first character if it may span lines.
    pub(crate) fn text(&self, start: Option<(usize, usize)>) -> String {
        match self {
            Self::Record(problem) => problem.clone(),
            Self::Json(error) => json_problem(error, start),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(None))
    }
}

/// serde_json's message, with its place in the file instead of its place in the row.
fn json_problem(error: &serde_json::Error, start: Option<(usize, usize)>) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = text.strip_suffix(&place).unwrap_or(&text);
    let place = match start {
        Some((line, column)) if error.line() <= 1 => {
            format!("line {line}, column {}", column + error.column().max(1) - 1)
        }
        Some((line, _)) => format!("line {}, column {}", line + error.line() - 1, error.column()),
        None if error.line() <= 1 => format!("column {}", error.column()),
        None => format!("line {}, column {}", error.line(), error.column()),
    };
    let hint = if error.is_eof() && start.is_none() { "; in JSON lines each record is on one line" } else { "" };
    format!("not valid JSON: {what} at {place}{hint}")
}

impl Record {
    /// Parses one row's JSON.
    ///
    /// # Errors
    ///
    /// Returns the problem as a clause without a place ("`completions` is missing: …"); the caller knows the file and line.
    pub fn parse(json: &str, format: Format, index: u64) -> std::result::Result<Self, String> {
        parse(json, format, index).map_err(|problem| problem.to_string())
    }
}

pub(super) fn parse(json: &str, format: Format, index: u64) -> Result<Record, Problem> {
    let value: Value = serde_json::from_str(json.trim_end()).map_err(Problem::Json)?;
    let Value::Object(row) = value else {
        return Err(Problem::Record(format!("the record is {}: expected an object", type_name(&value))));
    };
    let parsed = match format {
        Format::UltraFeedback => parse_rated(&row),
        Format::Pairs => parse_pair(&row),
        Format::Chat => parse_chat(&row),
    };
    let (prompt, body) = parsed.map_err(Problem::Record)?;
    Ok(Record { index, source: parse_source(&row), prompt, body })
}

fn parse_source(row: &Row) -> Option<String> {
    let source = row.get("source").or_else(|| row.get("metadata")?.get("source"))?;
    source.as_str().map(str::to_owned)
}

fn parse_text(row: &Row, key: &str) -> Parsed<String> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(unexpected(key, other, "text")),
    }
}

/// Adds to a problem that the record looks like one of another format, if it does.
fn hint(row: &Row, format: Format, problem: String) -> String {
    let has = |key: &str| row.contains_key(key);
    let (other, field) = if has("completions") {
        (Format::UltraFeedback, "completions")
    } else if has("chosen") && has("rejected") {
        (Format::Pairs, "chosen")
    } else if has("messages") || has("conversations") {
        (Format::Chat, if has("messages") { "messages" } else { "conversations" })
    } else {
        return problem;
    };
    if other == format {
        return problem;
    }
    format!("{problem}; the record has `{field}`: set the format to `{other}`")
}

// ---- Format::UltraFeedback ----

fn parse_rated(row: &Row) -> Parsed<(Prompt, Body)> {
    let expected = "a list of {response, annotations} objects";
    let completions = match row.get("completions") {
        Some(Value::Array(completions)) => completions,
        other => return Err(hint(row, Format::UltraFeedback, unexpected("completions", other, expected))),
    };
    let prompt = match row.get("instruction").filter(|value| !value.is_null()) {
        Some(instruction) => parse_prompt(instruction, "instruction")?,
        None => match row.get("prompt") {
            Some(prompt) => parse_prompt(prompt, "prompt")?,
            None => return Err(unexpected("instruction", row.get("instruction"), "text")),
        },
    };
    let completions: Parsed<Vec<_>> =
        completions.iter().enumerate().map(|(i, value)| parse_completion(value, i)).collect();
    Ok((prompt, Body::Rated(completions?)))
}

fn parse_prompt(value: &Value, field: &str) -> Parsed<Prompt> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(_) => Ok(Prompt::Messages(parse_messages(value, field)?)),
        other => Err(unexpected(field, Some(other), &format!("text or {MESSAGES}"))),
    }
}

fn parse_completion(value: &Value, index: usize) -> Parsed<Completion> {
    let field = format!("completions[{index}]");
    let completion =
        value.as_object().ok_or_else(|| unexpected(&field, Some(value), "an object {response, annotations}"))?;
    let response = match completion.get("response") {
        Some(Value::String(response)) => response.clone(),
        other => return Err(unexpected(&format!("{field}.response"), other, "text")),
    };
    let ratings = match completion.get("annotations") {
        None | Some(Value::Null) => IndexMap::new(),
        Some(Value::Object(annotations)) => annotations
            .iter()
            .map(|(dimension, annotation)| (dimension.clone(), parse_annotation(annotation)))
            .collect(),
        Some(Value::Array(annotations)) => parse_annotation_list(annotations, &format!("{field}.annotations"))?,
        other => {
            return Err(unexpected(
                &format!("{field}.annotations"),
                other,
                "an object by dimension, or a list of {Type, Rating}",
            ));
        }
    };
    Ok(Completion { response, ratings })
}

/// Parses the older form: `[{Type: dimension, Rating}, …]`.
fn parse_annotation_list(annotations: &[Value], field: &str) -> Parsed<IndexMap<String, Rating>> {
    let mut ratings = IndexMap::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let dimension = match annotation.get("Type") {
            Some(Value::String(dimension)) => dimension.clone(),
            other => return Err(unexpected(&format!("{field}[{i}].Type"), other, "the dimension's name")),
        };
        ratings.insert(dimension, parse_annotation(annotation));
    }
    Ok(ratings)
}

/// Parses an object with a `Rating`, a list of such objects (the first usable one counts), or a bare rating.
fn parse_annotation(annotation: &Value) -> Rating {
    match annotation {
        Value::Object(object) => object.get("Rating").map_or(Rating::Missing("absent"), parse_rating),
        Value::Array(list) => {
            let ratings: Vec<_> = list.iter().map(parse_annotation).collect();
            let usable = ratings.iter().find(|rating| matches!(rating, Rating::Value(_)));
            usable.or(ratings.first()).cloned().unwrap_or(Rating::Missing("absent"))
        }
        other => parse_rating(other),
    }
}

fn parse_rating(value: &Value) -> Rating {
    match value {
        Value::Null => Rating::Missing("null"),
        Value::Bool(_) => Rating::Missing("boolean"),
        Value::Array(_) => Rating::Missing("list"),
        Value::Object(_) => Rating::Missing("object"),
        Value::Number(number) => match number.as_f64() {
            Some(rating) if rating.is_finite() => Rating::Value(rating),
            _ => Rating::Missing("inf"),
        },
        Value::String(text) => match text.trim() {
            "" => Rating::Missing("empty"),
            text if text.eq_ignore_ascii_case("n/a") => Rating::Missing("N/A"),
            text => match text.parse::<f64>() {
                Ok(rating) if rating.is_finite() => Rating::Value(rating),
                Ok(rating) if rating.is_nan() => Rating::Missing("nan"),
                Ok(_) => Rating::Missing("inf"),
                Err(_) => Rating::Missing("text"),
            },
        },
    }
}

// ---- Format::Pairs ----

fn parse_pair(row: &Row) -> Parsed<(Prompt, Body)> {
    let (chosen_context, chosen) = parse_answer(row, "chosen")?;
    let (rejected_context, rejected) = parse_answer(row, "rejected")?;
    if chosen_context != rejected_context {
        return Err("`chosen` and `rejected` differ before their last turn: expected conversations that share every turn but the last".into());
    }
    Ok((pair_prompt(row, chosen_context)?, Body::Pair { chosen, rejected }))
}

/// Returns the turns before the answer, and the answer; a text has no turns before it.
fn parse_answer(row: &Row, key: &str) -> Parsed<(Vec<Message>, String)> {
    match row.get(key) {
        Some(Value::String(answer)) => Ok((Vec::new(), answer.clone())),
        Some(message @ Value::Object(_)) => split_answer(vec![parse_message(message, key)?], key),
        Some(messages @ Value::Array(_)) => split_answer(parse_messages(messages, key)?, key),
        other => {
            let problem = unexpected(key, other, &format!("text, a message, or {MESSAGES}"));
            Err(hint(row, Format::Pairs, problem))
        }
    }
}

fn split_answer(mut messages: Vec<Message>, key: &str) -> Parsed<(Vec<Message>, String)> {
    match messages.pop() {
        Some(last) if last.is_assistant() => Ok((messages, last.content)),
        Some(last) => Err(format!("`{key}` ends with a {:?} turn: expected an assistant turn", last.role)),
        None => Err(format!("`{key}` is empty: expected {MESSAGES}")),
    }
}

/// Finds the prompt in its own field, at the start of `chosen` and `rejected`, or in both.
fn pair_prompt(row: &Row, context: Vec<Message>) -> Parsed<Prompt> {
    let own = match row.get("prompt").filter(|value| !value.is_null()) {
        Some(prompt) => Some(parse_prompt(prompt, "prompt")?),
        None => parse_conversation(row)?.map(Prompt::Messages),
    };
    match own {
        None if context.is_empty() => Err(unexpected("prompt", row.get("prompt"), &format!("text or {MESSAGES}"))),
        None => Ok(Prompt::Messages(context)),
        Some(own) if context.is_empty() => Ok(own),
        // A context that starts with a user (or system) turn is a whole conversation, which repeats the text.
        Some(Prompt::Text(_)) if !context[0].is_assistant() => Ok(Prompt::Messages(context)),
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

fn parse_chat(row: &Row) -> Parsed<(Prompt, Body)> {
    match parse_conversation(row)? {
        Some(messages) => Ok((Prompt::Messages(messages), Body::Conversation)),
        None => Err(hint(row, Format::Chat, unexpected("messages", row.get("messages"), MESSAGES))),
    }
}

/// Parses `messages` or ShareGPT's `conversations`, with ShareGPT's `system` in front.
fn parse_conversation(row: &Row) -> Parsed<Option<Vec<Message>>> {
    let present = |key: &'static str| row.get(key).filter(|value| !value.is_null()).map(|value| (key, value));
    let Some((key, value)) = present("messages").or_else(|| present("conversations")) else {
        return Ok(None);
    };
    let mut messages = parse_messages(value, key)?;
    if present("system").is_some() && messages[0].role != "system" {
        let system = parse_text(row, "system")?;
        if !system.is_empty() {
            messages.insert(0, Message::new("system", system));
        }
    }
    Ok(Some(messages))
}
