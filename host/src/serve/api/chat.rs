//! `/v1/chat/completions`: messages in, `chat.completion` or `chat.completion.chunk` out.

use serde_json::{Map, Value, json};

use crate::plugin::{Message, PluginError};
use crate::serve::error::ApiError;
use crate::serve::state::App;
use crate::serve::token_names::TokenNames;

use super::fields::{Fields, shown};
use super::log_probs;
use super::parameters::Parameters;
use super::plan::{Kind, Plan, Prompt};
use super::result::Generated;

/// Most probable tokens that may be listed, as in OpenAI's API.
const MOST_TOP: usize = 20;

/// Fields of a message that say what its content does not.
const CALLS: [&str; 2] = ["tool_calls", "function_call"];

/// A chat whose fields are read, and whose prompt is not tokenised yet.
pub(in crate::serve) struct ChatRequest {
    model: String,
    lambda: Option<Vec<f64>>,
    messages: Vec<Message>,
    num_top: Option<usize>,
    parameters: Parameters,
}

impl ChatRequest {
    /// Reads the fields.
    ///
    /// # Errors
    ///
    /// Returns 400 or 404 that names the field.
    pub(in crate::serve) fn read(app: &App, body: &Value) -> Result<Self, ApiError> {
        let fields = Fields::of(body)?;
        let model = fields.text("model")?.unwrap_or(app.catalogue.name()).to_owned();
        let lambda = app.catalogue.lambda(&model, fields.get("lambda"))?;
        let parameters = Parameters::read(fields, 1)?;
        let wants_log_probs = fields.flag("logprobs")?.unwrap_or(false);
        let num_top = match fields.size("top_logprobs", 0, MOST_TOP)? {
            Some(_) if !wants_log_probs => {
                return Err(ApiError::field("top_logprobs", "`top_logprobs` is only allowed when `logprobs` is true"));
            }
            num_top => wants_log_probs.then(|| num_top.unwrap_or(0)),
        };
        if !app.has_chat_template {
            return Err(ApiError::malformed(
                "the model's tokenizer has no chat template: use /v1/completions, or start the server with --chat-template FILE",
            ));
        }
        Ok(Self { model, lambda, messages: messages(fields)?, num_top, parameters })
    }

    /// Returns the number of texts that it asks for.
    pub(in crate::serve) fn num_texts(&self) -> usize {
        self.parameters.num_choices
    }

    /// Makes the prompt.
    ///
    /// # Errors
    ///
    /// Returns 400 if the chat template refuses the messages, or the prompt does not fit the context.
    pub(in crate::serve) fn plan(self, app: &App) -> Result<Plan, ApiError> {
        let refused = |error: PluginError| ApiError::field("messages", error.to_string());
        let text = app.tokenizer.render(&self.messages, true).map_err(refused)?;
        if let Some(field) = CALLS.into_iter().find(|field| is_dropped(app, &self.messages, &text, field)) {
            let message = format!("the chat template does not print `{field}` of the messages: leave it out");
            return Err(ApiError::field("messages", message));
        }
        let ids = app.tokenizer.encode(&text).map_err(refused)?;
        let prompt = Prompt::fit(app, "messages", ids, self.parameters.max_tokens, usize::MAX)?;
        Ok(Plan {
            kind: Kind::Chat,
            model: self.model,
            lambda: self.lambda,
            prompts: vec![prompt],
            num_top: self.num_top,
            echo: false,
            parameters: self.parameters,
        })
    }
}

/// Returns whether messages have a field of which nothing is in the rendered text.
fn is_dropped(app: &App, messages: &[Message], text: &str, field: &str) -> bool {
    if !messages.iter().any(|message| message.extras.contains_key(field)) {
        return false;
    }
    let mut without = messages.to_vec();
    without.iter_mut().for_each(|message| _ = message.extras.shift_remove(field));
    // A template that needs the field to render at all does print it.
    app.tokenizer.render(&without, true).is_ok_and(|without| without == text)
}

fn messages(fields: Fields) -> Result<Vec<Message>, ApiError> {
    let wrong = |message: String| ApiError::field("messages", message);
    let Some(messages) = fields.typed("messages", Value::as_array, "a list of messages")? else {
        return Err(wrong(
            "`messages` is missing: send a list of messages, such as [{\"role\": \"user\", \"content\": \"Hello\"}]"
                .into(),
        ));
    };
    if messages.is_empty() {
        return Err(wrong("`messages` must not be empty".into()));
    }
    messages
        .iter()
        .enumerate()
        .map(|(index, value)| message(value).map_err(|problem| wrong(format!("`messages[{index}]`{problem}"))))
        .collect()
}

/// Reads one message; an error goes on after the message's name.
fn message(value: &Value) -> Result<Message, String> {
    let Value::Object(fields) = value else {
        return Err(format!(" must be an object with `role` and `content`, not {}", shown(value)));
    };
    let mut fields = fields.clone();
    let role = match fields.shift_remove("role") {
        Some(Value::String(role)) if !role.is_empty() => role,
        Some(other) => return Err(format!(".role must be a string such as \"user\", not {}", shown(&other))),
        None => return Err(".role is missing: it is a string such as \"user\"".into()),
    };
    let content = match fields.shift_remove("content") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Array(parts)) => Some(parts.iter().map(text_of_part).collect::<Result<Vec<_>, _>>()?.join("\n")),
        Some(other) => return Err(format!(".content must be a string or a list of text parts, not {}", shown(&other))),
    };
    // What clients repeat of an earlier answer without a meaning.
    let means_something = |value: &Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    let extras: Map<String, Value> = fields.into_iter().filter(|(_, value)| means_something(value)).collect();
    if content.is_none() && extras.is_empty() {
        return Err(".content is missing: it is a string".into());
    }
    Ok(Message { role, content, extras })
}

fn text_of_part(part: &Value) -> Result<&str, String> {
    match (part["type"].as_str(), part["text"].as_str()) {
        (Some("text"), Some(text)) => Ok(text),
        (Some(kind), _) if kind != "text" => {
            Err(format!(".content has a part of type `{kind}`, but this server takes only text"))
        }
        _ => Err(format!(
            ".content has the part {}, which is not of the form {{\"type\": \"text\", \"text\": …}}",
            shown(part)
        )),
    }
}

/// Returns the choice that is a whole answer.
pub(in crate::serve) fn choice(index: usize, plan: &Plan, generated: &Generated, names: &TokenNames) -> Value {
    json!({
        "index": index,
        "message": { "role": "assistant", "content": generated.text, "refusal": null },
        "logprobs": plan.num_top.map(|_| log_probs::of_chat(&generated.tokens, names)),
        "finish_reason": generated.finish_word(),
    })
}

/// Returns the choice of the event that begins an answer.
pub(in crate::serve) fn first_chunk(index: usize) -> Value {
    json!({
        "index": index,
        "delta": { "role": "assistant", "content": "", "refusal": null },
        "logprobs": null,
        "finish_reason": null,
    })
}

/// Returns the choice of an event with more of an answer.
pub(in crate::serve) fn chunk(index: usize, plan: &Plan, generated: &Generated, names: &TokenNames) -> Value {
    let delta = if generated.text.is_empty() { json!({}) } else { json!({ "content": generated.text }) };
    let log_probs = plan.num_top.filter(|_| !generated.tokens.is_empty());
    json!({
        "index": index,
        "delta": delta,
        "logprobs": log_probs.map(|_| log_probs::of_chat(&generated.tokens, names)),
        "finish_reason": generated.finish_word(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn messages_are_text_in_one_piece_or_several() {
        let read = |value: Value| message(&value).unwrap();
        assert_eq!(read(json!({ "role": "user", "content": "a" })), Message::new("user", "a"));
        let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        assert_eq!(read(json!({ "role": "user", "content": parts })), Message::new("user", "a\nb"));
        let repeated = json!({ "role": "assistant", "content": "a", "refusal": null, "annotations": [] });
        assert_eq!(read(repeated), Message::new("assistant", "a"));
        let call = read(json!({ "role": "assistant", "content": null, "tool_calls": [{ "id": "1" }] }));
        assert_eq!((call.content, call.extras.len()), (None, 1));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let refused = |value: Value| message(&value).unwrap_err();
        assert!(refused(json!("hello")).starts_with(" must be an object"));
        assert!(refused(json!({ "content": "a" })).starts_with(".role is missing"));
        assert!(refused(json!({ "role": 1, "content": "a" })).starts_with(".role must be a string"));
        assert!(refused(json!({ "role": "user" })).starts_with(".content is missing"));
        assert!(refused(json!({ "role": "user", "content": 1 })).starts_with(".content must be a string"));
        let image = json!([{ "type": "image_url", "image_url": { "url": "x" } }]);
        assert_eq!(
            refused(json!({ "role": "user", "content": image })),
            ".content has a part of type `image_url`, but this server takes only text"
        );
        assert!(refused(json!({ "role": "user", "content": ["a"] })).starts_with(".content has the part \"a\""));
    }
}
