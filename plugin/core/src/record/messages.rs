//! The two shapes of a conversation: `{role, content}`, and ShareGPT's `{from, value}`.

use serde_json::{Map, Value};

use super::fields::set;
use super::json::{is_nan, literal, literal_within, without_nulls};
use super::types::{Message, WEIGHT, switch};

/// Description of a list of messages, for error messages.
pub(super) const MESSAGES: &str = "a list of {role, content} objects";

/// Fields that say, as `weight` does, whether a turn is a target.
const SWITCHES: &[&str] = &[WEIGHT, "train", "training", "loss"];
/// Fields that say the same in ways that differ between programs.
const MASKS: &[&str] = &["mask", "masked", "loss_mask", "label_mask", "train_detail", "training_detail"];
/// Types of parts that are text.
const TEXT_PARTS: &[&str] = &["text", "input_text", "output_text"];

/// What a row leaves in the fields that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nothing: a null was written by a person.
    Nothing,
    /// Null, as a table does.
    Nulls,
}

/// Returns the name of a JSON value's type with its article.
pub(super) fn type_name(value: &Value) -> &str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => literal(value).unwrap_or("an object"),
    }
}

/// Returns "`field` is missing" or "`field` is a number", with what was expected.
pub(super) fn unexpected(field: &str, value: Option<&Value>, expected: &str) -> String {
    let found = value.map_or("missing", type_name);
    format!("`{field}` is {found}: expected {expected}")
}

/// Parses a list of at least one message.
pub(super) fn parse_messages(value: &Value, field: &str, fill: Fill) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| unexpected(field, Some(value), MESSAGES))?;
    if list.is_empty() {
        return Err(format!("`{field}` is empty: expected {MESSAGES}"));
    }
    list.iter().enumerate().map(|(i, message)| parse_message(message, &format!("{field}[{i}]"), fill)).collect()
}

/// Parses one message of either shape; its other fields are kept for the chat template.
pub(super) fn parse_message(value: &Value, field: &str, fill: Fill) -> Result<Message, String> {
    let object = value.as_object().ok_or_else(|| unexpected(field, Some(value), "an object {role, content}"))?;
    let has = |key: &str| object.get(key).is_some_and(|value| !value.is_null());
    let share_gpt = has("from") || object.contains_key("from") && !has("role");
    let (role_key, content_key) = if share_gpt { ("from", "value") } else { ("role", "content") };
    if let Some(key) = ["role", "content"].into_iter().find(|key| share_gpt && has(key)) {
        return Err(format!("`{field}` has both `from` and `{key}`: expected {{role, content}}, or {{from, value}}"));
    }
    let role_field = format!("{field}.{role_key}");
    let role = match object.get(role_key) {
        Some(Value::String(role)) if !share_gpt => role.clone(),
        Some(Value::String(from)) => share_gpt_role(from, &role_field)?.to_owned(),
        other => return Err(unexpected(&role_field, other, "text")),
    };
    let mut message =
        Message { role, content: None, extras: parse_extras(object, field, [role_key, content_key], fill)? };
    if let Some(is_target) = parse_weight(object, field)? {
        if is_target && !message.is_assistant() {
            return Err(format!(
                "`{field}` is a {:?} turn that is to be trained on, but only assistant turns are targets: remove its weight",
                message.role
            ));
        }
        if !is_target && message.is_assistant() {
            message.extras.insert(WEIGHT.to_owned(), 0.into());
        }
    }
    // A turn that only calls tools has no text.
    if has(content_key) || !message.calls_tools() {
        message.content = Some(parse_content(object, content_key, &format!("{field}.{content_key}"))?);
    }
    Ok(message)
}

/// Returns the fields besides role, text and weight.
fn parse_extras(
    object: &Map<String, Value>,
    field: &str,
    read: [&str; 2],
    fill: Fill,
) -> Result<Map<String, Value>, String> {
    let mut extras = Map::new();
    for (key, value) in object {
        let is_read = read.contains(&key.as_str()) || ["role", "content"].contains(&key.as_str());
        if is_read || SWITCHES.contains(&key.as_str()) || value.is_null() || is_nan(value) {
            continue;
        }
        if MASKS.contains(&key.as_str()) {
            return Err(format!(
                "`{field}.{key}` would change which tokens are targets: give assistant turns a `{WEIGHT}` of 0 or 1 instead"
            ));
        }
        extras.insert(key.clone(), extra(value, &format!("{field}.{key}"), fill)?);
    }
    Ok(extras)
}

/// Returns a value as the chat template gets it.
pub(super) fn extra(value: &Value, field: &str, fill: Fill) -> Result<Value, String> {
    if let Some(number) = literal_within(value) {
        return Err(format!("`{field}` holds {number}, which JSON does not have: write null, or a number"));
    }
    Ok(if fill == Fill::Nulls { without_nulls(value.clone()) } else { value.clone() })
}

/// Returns whether the turn is to be a target, if one of its fields says so.
fn parse_weight(object: &Map<String, Value>, field: &str) -> Result<Option<bool>, String> {
    let mut weight: Option<(&str, bool)> = None;
    for key in SWITCHES {
        let Some(value) = set(object, key) else { continue };
        let on = switch(value).ok_or_else(|| {
            format!("`{field}.{key}` is {value}: a turn is a target (1, true) or it is not (0, false), with no weight between")
        })?;
        match weight {
            Some((other, before)) if before != on => {
                return Err(format!("`{field}.{other}` and `{field}.{key}` contradict each other: remove one of them"));
            }
            _ => weight = Some((key, on)),
        }
    }
    Ok(weight.map(|(_, on)| on))
}

fn share_gpt_role(from: &str, field: &str) -> Result<&'static str, String> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" => Ok("assistant"),
        "system" => Ok("system"),
        "observation" | "tool" => Ok("tool"),
        "function_call" => Err(format!(
            "`{field}` is \"function_call\", which chat templates do not know: write the turn as {{role: assistant, \
             tool_calls: [{{type: function, function: {{name, arguments}}}}]}}"
        )),
        _ => Err(format!("`{field}` is {from:?}: expected human, gpt, system or observation")),
    }
}

/// Parses text, or a list of `{type: "text", text}` parts.
fn parse_content(message: &Map<String, Value>, key: &str, field: &str) -> Result<String, String> {
    match message.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let is_text = |part: &Value| {
                let part_type = part.get("type").filter(|part_type| !part_type.is_null());
                part_type.is_none_or(|part_type| part_type.as_str().is_some_and(|name| TEXT_PARTS.contains(&name)))
            };
            let texts = parts.iter().enumerate().map(|(i, part)| match part.get("text") {
                Some(Value::String(text)) if is_text(part) => Ok(text.as_str()),
                Some(_) if !is_text(part) => {
                    Err(format!("`{field}[{i}]` is of type {}: only parts of type text are supported", part["type"]))
                }
                _ => Err(format!("`{field}[{i}]` has no `text`: only parts of type text are supported")),
            });
            texts.collect()
        }
        other => Err(unexpected(field, other, "text")),
    }
}
