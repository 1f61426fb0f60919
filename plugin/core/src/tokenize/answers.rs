//! Checks that the chat template prints the whole of an answer: otherwise answers that differ would train the same.

use super::tokenizer::Outcome;

/// Fails if `whole`, the rendered conversation, does not have all of `answer` after what was rendered before it.
///
/// White space does not count: templates trim answers, or put line breaks around their parts. `prompt` is the text that
/// the model sees when it answers, and `conversation` renders that without the header of an answer.
pub(super) fn check_answer(
    whole: &str,
    prompt: &str,
    conversation: impl FnOnce() -> Outcome<String>,
    answer: &str,
    name: impl FnOnce() -> String,
) -> Outcome<()> {
    if whole.strip_prefix(prompt).is_some_and(|added| added.contains(answer.trim())) {
        return Ok(());
    }
    // The header may have a part of the answer already, as one that opens a thinking block does.
    let conversation = conversation()?;
    let added = whole.strip_prefix(conversation.as_str()).unwrap_or(whole);
    let (added, answer) = (without_space(added), without_space(answer));
    if added.contains(&answer) {
        return Ok(());
    }
    let part = match dropped_start(&added, &answer) {
        Some(start) => format!("drops a part of `{}`, which starts with {start:?}", name()),
        None => format!("does not print all of `{}`", name()),
    };
    Err(format!(
        "the chat template {part}: name a template that prints it as `data.chat_template`, or remove that part from the \
         answer"
    ))
}

fn without_space(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Most characters of a dropped part that an error shows.
const MAX_SHOWN: usize = 20;

/// Returns how the part starts that is missing before the printed end of an answer.
fn dropped_start(added: &str, answer: &str) -> Option<String> {
    let last = answer.char_indices().next_back()?.0;
    if !added.contains(&answer[last..]) {
        return None;
    }
    let kept = answer.char_indices().map(|(i, _)| i).find(|&i| i > 0 && added.contains(&answer[i..]))?;
    Some(answer[..kept].chars().take(MAX_SHOWN).collect())
}
