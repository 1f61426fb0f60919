//! The two shapes of a conversation: `{role, content}`, and ShareGPT's `{from, value}`.

use serde_json::{Map, Value};

use super::types::Message;

/// Description of a list of messages, for error messages.
pub(super) const MESSAGES: &str = "a list of {role, content} objects";

/// Returns the name of a JSON value's type with its article.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Returns "`field` is missing" or "`field` is a number", with what was expected.
pub(super) fn unexpected(field: &str, value: Option<&Value>, expected: &str) -> String {
    let found = value.map_or("missing", type_name);
    format!("`{field}` is {found}: expected {expected}")
}

/// Parses a list of at least one message.
pub(super) fn parse_messages(value: &Value, field: &str) -> Result<Vec<Message>, String> {
    let list = value.as_array().ok_or_else(|| unexpected(field, Some(value), MESSAGES))?;
    if list.is_empty() {
        return Err(format!("`{field}` is empty: expected {MESSAGES}"));
    }
    list.iter().enumerate().map(|(i, message)| parse_message(message, &format!("{field}[{i}]"))).collect()
}

/// Parses one message of either shape.
pub(super) fn parse_message(value: &Value, field: &str) -> Result<Message, String> {
    let message = value.as_object().ok_or_else(|| unexpected(field, Some(value), "an object {role, content}"))?;
    if message
        .get("tool_calls")
        .is_some_and(|calls| !matches!(calls, Value::Null) && *calls != Value::Array(Vec::new()))
    {
        return Err(format!("`{field}.tool_calls` is set: conversations with tool calls are not supported"));
    }
    let (role_key, content_key) = if message.contains_key("from") { ("from", "value") } else { ("role", "content") };
    let role_field = format!("{field}.{role_key}");
    let role = match message.get(role_key) {
        Some(Value::String(role)) if role_key == "role" => role.clone(),
        Some(Value::String(from)) => share_gpt_role(from, &role_field)?.to_owned(),
        other => return Err(unexpected(&role_field, other, "text")),
    };
    Ok(Message { role, content: parse_content(message, content_key, &format!("{field}.{content_key}"))? })
}

fn share_gpt_role(from: &str, field: &str) -> Result<&'static str, String> {
    match from {
        "human" | "user" => Ok("user"),
        "gpt" | "assistant" => Ok("assistant"),
        "system" => Ok("system"),
        "observation" | "tool" => Ok("tool"),
        _ => Err(format!("`{field}` is {from:?}: expected human, gpt, system or observation")),
    }
}

/// Parses text, or a list of `{type: "text", text}` parts.
fn parse_content(message: &Map<String, Value>, key: &str, field: &str) -> Result<String, String> {
    match message.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().enumerate().map(|(i, part)| match part.get("text") {
                Some(Value::String(text)) => Ok(text.as_str()),
                _ => Err(format!("`{field}[{i}]` has no `text`: only parts of type text are supported")),
            });
            texts.collect()
        }
        other => Err(unexpected(field, other, "text")),
    }
}
