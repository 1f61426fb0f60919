//! Answers that are compared with each other, as texts or messages, and the prompt before them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::refuse_beside;
use super::json::literal;
use super::messages::{Fill, MESSAGES, parse_message, parse_messages, unexpected};
use super::prompt::{Parsed, Row, parse_conversation, parse_prompt, present};
use super::types::{Message, Prompt, WEIGHT};

/// An answer that is compared with others.
pub(super) struct Answer {
    /// The turns before it; none if it is a text or one message.
    pub(super) context: Vec<Message>,
    pub(super) text: String,
    /// Its other fields.
    pub(super) extras: Map<String, Value>,
}

/// Parses an answer: a text, a message, or a conversation that ends with it.
pub(super) fn parse_answer(value: Option<&Value>, field: &str, fill: Fill) -> Parsed<Answer> {
    match value {
        Some(Value::String(text)) => Ok(Answer { context: Vec::new(), text: text.clone(), extras: Map::new() }),
        Some(value @ Value::Object(_)) if literal(value).is_none() => {
            split_answer(vec![parse_message(value, field, fill)?], field)
        }
        Some(messages @ Value::Array(_)) => split_answer(parse_messages(messages, field, fill)?, field),
        other => Err(unexpected(field, other, &format!("text, a message, or {MESSAGES}"))),
    }
}

/// Fails if the turns before two answers, each with the name of its field, are not the same.
pub(super) fn check_context((name, one): (&str, &Answer), (other_name, other): (&str, &Answer)) -> Parsed<()> {
    if one.context == other.context {
        return Ok(());
    }
    Err(format!(
        "`{name}` and `{other_name}` differ before their last turn: expected conversations that share every turn but the \
         last"
    ))
}

fn split_answer(mut messages: Vec<Message>, field: &str) -> Parsed<Answer> {
    let answer = match messages.pop() {
        Some(last) if last.is_assistant() => last,
        Some(last) => return Err(format!("`{field}` ends with a {:?} turn: expected an assistant turn", last.role)),
        None => return Err(format!("`{field}` is empty: expected {MESSAGES}")),
    };
    if !answer.is_target()? {
        return Err(format!(
            "the last turn of `{field}` has a {WEIGHT} of 0, but all answers of a record are compared: leave the record out"
        ));
    }
    match answer.content {
        Some(text) => Ok(Answer { context: messages, text, extras: answer.extras }),
        None => Err(format!("the last turn of `{field}` has no content: write an empty text if it only calls tools")),
    }
}

/// Finds the prompt of answers in its own field, in the turns before the answers, or in both.
pub(super) fn parse_prompt_of_answers(
    row: &Row,
    context: Vec<Message>,
    fill: Fill,
    ignored: &mut BTreeSet<String>,
) -> Parsed<Prompt> {
    let own = match present(row, "prompt") {
        Some(prompt) => {
            refuse_beside(row, "prompt")?;
            ignored.extend(
                ["messages", "conversations"].into_iter().filter_map(|key| present(row, key).map(|_| key.into())),
            );
            Some(parse_prompt(prompt, "prompt", fill)?)
        }
        None => parse_conversation(row, fill, ignored)?.map(Prompt::Messages),
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
