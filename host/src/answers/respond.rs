//! Generates answers to all questions, turn by turn.

use anyhow::{Context as _, Result};

use crate::console::Progress;
use crate::generate::{GenerateOptions, generate_streams};
use crate::model::Model;
use crate::plugin::{Message, Tokenizer};

use super::question::Question;

/// The answers to the turns of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Text of each answer.
    pub texts: Vec<String>,
    /// Number of tokens of each answer, with the end token.
    pub num_tokens: Vec<usize>,
    /// Whether the model ended each answer itself; else it has as many tokens as it may have.
    pub has_ended: Vec<bool>,
}

/// Answers questions, up to `batch_size` at once. A question's random numbers are numbered by its index, so neither its
/// neighbours nor the batches change its answer beyond rounding.
///
/// # Errors
///
/// Returns an error if the chat template rejects a conversation, with the question's number. Errors from model and
/// tokenizer.
pub fn respond(
    model: &Model,
    tokenizer: &Tokenizer,
    questions: &[Question],
    options: &GenerateOptions,
    batch_size: usize,
) -> Result<Vec<Answered>> {
    let mut answered = vec![Answered::default(); questions.len()];
    let mut conversations: Vec<Vec<Message>> = questions.iter().map(|question| question.messages.clone()).collect();
    let num_turns = questions.iter().map(|question| question.follow_ups.len() + 1).max().unwrap_or(0);
    let total: usize = questions.iter().map(|question| question.follow_ups.len() + 1).sum();
    let mut progress = Progress::new("answering", total as u64, 0);
    let mut num_done = 0;
    for turn in 0..num_turns {
        let open: Vec<usize> =
            (0..questions.len()).filter(|&index| questions[index].follow_ups.len() >= turn).collect();
        let mut prompts = Vec::new();
        for &index in &open {
            if let Some(text) = turn.checked_sub(1).map(|follow_up| &questions[index].follow_ups[follow_up]) {
                conversations[index].push(Message::new("user", text));
            }
            let text = tokenizer.render(&conversations[index], true).with_context(|| format!("prompt {index}"))?;
            prompts.push((index as u64, tokenizer.encode(&text)?));
        }
        let prompts: Vec<(u64, &[i64])> = prompts.iter().map(|(stream, prompt)| (*stream, prompt.as_slice())).collect();
        // Each turn samples with new random numbers, as in a chat.
        let options = GenerateOptions { seed: options.seed.wrapping_add(turn as u64), ..options.clone() };
        let message = if num_turns > 1 { format!("turn {} of {num_turns}", turn + 1) } else { String::new() };
        let found = generate_streams(model, &prompts, &options, batch_size, &mut |texts| {
            progress.update((num_done + texts) as u64, total as u64, &message);
        })?;
        num_done += open.len();
        for (index, generated) in open.into_iter().zip(found) {
            let text = tokenizer.decode(&generated.tokens, true)?;
            conversations[index].push(Message::new("assistant", &text));
            answered[index].texts.push(text);
            answered[index].num_tokens.push(generated.num_chosen());
            answered[index].has_ended.push(generated.has_ended());
        }
    }
    progress.clear();
    Ok(answered)
}
