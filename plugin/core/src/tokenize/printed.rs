//! Checks that the chat template prints what a record says besides role and content: otherwise two records that differ
//! would train the same.

use serde_json::Value;

use super::tokenizer::{Outcome, Tokenizer};
use crate::record::{CALLS, Message, REASONING, is_set};

/// Fails if the chat template drops the tools, the tool calls of any turn, or the reasoning of a target.
///
/// Each is rendered with and without: a template that takes it prints something else. Templates drop the reasoning of
/// earlier turns by design, so an answer's reasoning is looked for where the answer is the last turn.
pub(super) fn check_fields(
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    has_targets: bool,
) -> Outcome<()> {
    if tools.is_some() {
        let with = tokenizer.render_with_tools(messages, tools, !has_targets)?;
        if tokenizer.render_text(messages, !has_targets).is_ok_and(|without| without == with) {
            return Err(dropped("tools", ""));
        }
    }
    for (i, message) in messages.iter().enumerate().filter(|(_, message)| message.is_assistant()) {
        let reasoning: &[&str] = if has_targets && message.is_target()? { REASONING } else { &[] };
        let set = |key: &&str| message.extras.get(*key).is_some_and(is_set);
        for key in CALLS.iter().chain(reasoning).filter(|key| set(key)) {
            check_last_turn(tokenizer, &messages[..=i], tools, key, || format!(" of turn {}", i + 1))?;
        }
    }
    Ok(())
}

/// Fails if the chat template drops the tool calls or the reasoning of a response, the last of `messages`.
pub(super) fn check_response(
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    response_index: usize,
) -> Outcome<()> {
    let Some(response) = messages.last() else { return Ok(()) };
    for key in CALLS.iter().chain(REASONING).filter(|key| response.extras.get(**key).is_some_and(is_set)) {
        check_last_turn(tokenizer, messages, tools, key, || format!(" of response {}", response_index + 1))?;
    }
    Ok(())
}

fn check_last_turn(
    tokenizer: &Tokenizer,
    messages: &[Message],
    tools: Option<&Value>,
    key: &str,
    name: impl FnOnce() -> String,
) -> Outcome<()> {
    let Some((last, before)) = messages.split_last() else { return Ok(()) };
    let with = tokenizer.render_with_tools(messages, tools, false)?;
    let without = [before, &[without_value_of(last, key)]].concat();
    match tokenizer.render_with_tools(&without, tools, false) {
        Ok(without) if without == with => Err(dropped(key, &name())),
        _ => Ok(()),
    }
}

fn dropped(field: &str, of: &str) -> String {
    format!(
        "the chat template does not print `{field}`{of}: name one that does as `data.chat_template`, or remove the field"
    )
}

/// Returns the message without a field, and without others that say the same under another name.
fn without_value_of(message: &Message, key: &str) -> Message {
    let mut message = message.clone();
    let value = message.extras.get(key).cloned();
    message.extras.retain(|_, other| Some(&*other) != value.as_ref());
    message.content.get_or_insert_default();
    message
}
