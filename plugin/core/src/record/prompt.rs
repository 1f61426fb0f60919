//! What the formats share: the prompt, the system prompt beside it, and the tools.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::{SYSTEM, set};
use super::json::{is_nan, literal_within, without_nulls};
use super::messages::{Fill, MESSAGES, parse_messages, type_name, unexpected};
use super::types::{Message, Prompt};

pub(super) type Row = Map<String, Value>;
pub(super) type Parsed<T> = Result<T, String>;
/// The fields of each answer besides its text.
pub(super) type Extras = Vec<Map<String, Value>>;

/// Returns a field that is there and neither null nor NaN.
pub(super) fn present<'a>(row: &'a Row, key: &str) -> Option<&'a Value> {
    row.get(key).filter(|value| !value.is_null() && !is_nan(value))
}

pub(super) fn parse_prompt(value: &Value, field: &str, fill: Fill) -> Parsed<Prompt> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(_) => Ok(Prompt::Messages(parse_messages(value, field, fill)?)),
        other => Err(unexpected(field, Some(other), &format!("text or {MESSAGES}"))),
    }
}

/// Parses `messages` or ShareGPT's `conversations`; beside the former, the latter has no effect, unless it is the same.
pub(super) fn parse_conversation(
    row: &Row,
    fill: Fill,
    ignored: &mut BTreeSet<String>,
) -> Parsed<Option<Vec<Message>>> {
    let (key, value) = match (present(row, "messages"), present(row, "conversations")) {
        (Some(messages), other) => {
            if other.is_some_and(|other| other != messages) {
                ignored.insert("conversations".to_owned());
            }
            ("messages", messages)
        }
        (None, Some(conversations)) => ("conversations", conversations),
        (None, None) => return Ok(None),
    };
    Ok(Some(parse_messages(value, key, fill)?))
}

/// Puts a record's system prompt before its prompt.
pub(super) fn with_system(row: &Row, prompt: Prompt) -> Parsed<Prompt> {
    let mut system: Option<(&str, &str)> = None;
    for key in SYSTEM {
        let Some(value) = set(row, key) else { continue };
        let Value::String(text) = value else {
            return Err(unexpected(key, Some(value), "the text of the system prompt"));
        };
        match system {
            Some((other, before)) if before != text => {
                return Err(format!("`{other}` and `{key}` are different system prompts: keep one of them"));
            }
            _ => system = Some((key, text)),
        }
    }
    let Some((key, text)) = system else { return Ok(prompt) };
    let mut messages = prompt.to_messages();
    match messages.first() {
        Some(first) if first.role == "system" => {
            if first.content.as_deref() != Some(text) {
                return Err(format!(
                    "`{key}` differs from the system turn that the conversation starts with: keep one"
                ));
            }
        }
        _ => messages.insert(0, Message::new("system", text)),
    }
    Ok(Prompt::Messages(messages))
}

/// Parses `tools`: a list of objects, or its JSON as text.
pub(super) fn parse_tools(row: &Row, fill: Fill) -> Parsed<Option<Value>> {
    let expected = "a list of tools, or its JSON as text";
    let Some(value) = set(row, "tools") else { return Ok(None) };
    let mut tools = match value {
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => serde_json::from_str(text)
            .map_err(|error| format!("`tools` is text that is not valid JSON ({error}): expected {expected}"))?,
        Value::Array(_) if fill == Fill::Nulls => without_nulls(value.clone()),
        other => other.clone(),
    };
    let Value::Array(list) = &mut tools else {
        return match tools {
            Value::Null => Ok(None),
            other => Err(unexpected("tools", Some(&other), expected)),
        };
    };
    for (i, tool) in list.iter_mut().enumerate() {
        if let Value::String(text) = tool {
            *tool = serde_json::from_str(text).map_err(|error| {
                format!("`tools[{i}]` is text that is not valid JSON ({error}): expected an object")
            })?;
        }
        if !tool.is_object() {
            return Err(format!("`tools[{i}]` is {}: expected an object that describes a tool", type_name(tool)));
        }
        if let Some(number) = literal_within(tool) {
            return Err(format!("`tools[{i}]` holds {number}, which JSON does not have: write null, or a number"));
        }
    }
    Ok((!list.is_empty()).then_some(tools))
}
