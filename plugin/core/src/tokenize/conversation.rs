//! A conversation in which every assistant turn is a target, unless its weight is 0.

use std::ops::Range;

use ndarray::Array2;
use serde_json::Value;

use super::answers::check_answer;
use super::printed::check_fields;
use super::responses::{Prompt, continuation};
use super::samples::{TokenizeOptions, Tokenized, TokenizedResponse, TokenizedSample};
use super::tokenizer::{Outcome, Tokenizer};
use crate::convert::{Sample, Skipped};
use crate::record::Message;

/// One answer: the messages before it, the text that the model sees when it answers, and that text with the answer.
struct Turn<'a> {
    context: &'a [Message],
    prompt: String,
    whole: String,
    /// Whether the answer is a target; one with a weight of 0 is not.
    is_target: bool,
}

impl Turn<'_> {
    fn answer_follows_prompt(&self) -> bool {
        self.whole.starts_with(&self.prompt)
    }

    /// Whether `next` renders this turn in the same way as when it was the last.
    fn is_kept_by(&self, next: &Turn) -> bool {
        next.prompt.starts_with(&self.whole) && next.answer_follows_prompt()
    }
}

/// Tokenises a conversation. Every assistant turn is a target once, after the text that the template renders when the
/// model is about to say it.
///
/// Turns that are rendered in the same way once later ones follow share one sample. If the template rewrites history
/// (by stripping earlier thinking, say), each rewritten turn has its own sample.
pub(super) fn tokenize(tokenizer: &Tokenizer, sample: &Sample, options: &TokenizeOptions) -> Outcome<Tokenized> {
    let messages = sample.prompt.to_messages();
    let tools = sample.tools.as_ref();
    check_fields(tokenizer, &messages, tools, true)?;
    let answers = messages.iter().enumerate().filter(|(_, message)| message.is_assistant());
    let turns = answers.map(|(i, _)| {
        let context = &messages[..i];
        let prompt = tokenizer.render_with_tools(context, tools, true)?;
        let whole = tokenizer.render_with_tools(&messages[..=i], tools, false)?;
        let is_target = messages[i].is_target()?;
        if let Some(content) = messages[i].content.as_deref().filter(|_| is_target) {
            let conversation = || tokenizer.render_with_tools(context, tools, false);
            check_answer(&whole, &prompt, conversation, content, || format!("messages[{i}].content"))?;
        }
        Ok(Turn { context, prompt, whole, is_target })
    });
    let turns = turns.collect::<Outcome<Vec<_>>>()?;

    let mut tokenized = Tokenized::default();
    for group in turns.chunk_by(|turn, next| turn.answer_follows_prompt() && turn.is_kept_by(next)) {
        let (prompt, response) = tokenize_group(tokenizer, group, tools)?;
        push(&mut tokenized, sample.record_index, prompt, response, options);
    }
    if turns.is_empty() {
        if options.keep_all {
            let prompt = tokenizer.encode_text(&tokenizer.render_with_tools(&messages, tools, false)?)?;
            push(&mut tokenized, sample.record_index, prompt, Vec::new(), options);
        } else {
            tokenized.skipped.push(Skipped::NoAssistantTurn);
        }
    }
    Ok(tokenized)
}

/// A token and whether it is a target.
type Marked = (i64, bool);

/// Cuts the response to the cutoff, and keeps the sample if a target is left.
fn push(
    tokenized: &mut Tokenized,
    record_index: u64,
    prompt: Vec<i64>,
    mut response: Vec<Marked>,
    options: &TokenizeOptions,
) {
    let room = options.cutoff_len.map_or(usize::MAX, |cutoff_len| cutoff_len.saturating_sub(prompt.len()));
    if response.len() > room {
        tokenized.num_truncated += 1;
        response.truncate(room);
    }
    // Tokens after the last target have no effect on the loss.
    let end = response.iter().rposition(|(_, is_target)| *is_target).map_or(0, |last| last + 1);
    response.truncate(end);
    if !options.keep_all && (prompt.is_empty() || response.is_empty()) {
        tokenized.skipped.push(if prompt.is_empty() { Skipped::EmptyPrompt } else { Skipped::NoTargetLeft });
        return;
    }
    let (ids, is_target): (Vec<i64>, Vec<bool>) = response.into_iter().unzip();
    let is_target = Some(is_target).filter(|is_target| is_target.contains(&false));
    let responses = vec![TokenizedResponse { response_index: 0, ids, is_target }];
    tokenized.samples.push(TokenizedSample::new(record_index, prompt, responses, Array2::zeros((0, 1))));
}

/// Returns the tokens before the group's first answer, and those from there to the end of its last.
fn tokenize_group(tokenizer: &Tokenizer, group: &[Turn], tools: Option<&Value>) -> Outcome<(Vec<i64>, Vec<Marked>)> {
    if let [turn] = group {
        let prompt = Prompt::new(tokenizer, turn.context, tools)?;
        let ids = prompt.added(tokenizer, &turn.whole)?;
        return Ok((prompt.ids, ids.into_iter().map(|id| (id, turn.is_target)).collect()));
    }
    let spans: Vec<_> = group.iter().map(|turn| (turn.prompt.len()..turn.whole.len(), turn.is_target)).collect();
    match group.last() {
        Some(last) => match encode_at_borders(tokenizer, &last.whole, &spans)? {
            Some(marked) => Ok(marked),
            None => encode_by_turn(tokenizer, group),
        },
        None => Ok((Vec::new(), Vec::new())),
    }
}

/// Encodes the conversation once and finds the answers in it by their place in the text (`spans`, in bytes, and
/// whether each is a target). Returns None if the tokens up to a border differ from those of the text up to there by itself.
fn encode_at_borders(
    tokenizer: &Tokenizer,
    text: &str,
    spans: &[(Range<usize>, bool)],
) -> Outcome<Option<(Vec<i64>, Vec<Marked>)>> {
    let encoding = tokenizer.encoded(|encoder| encoder.encode(text, false))?;
    let (ids, offsets) = (encoding.get_ids(), encoding.get_offsets());
    let is_special = |token: &usize| tokenizer.special_ids.contains(&ids[*token]);
    let mut targets = Vec::with_capacity(spans.len());
    for (span, is_target) in spans {
        let mut borders = [0; 2];
        for (border, end) in borders.iter_mut().zip([span.start, span.end]) {
            *border = offsets.partition_point(|&(_, token_end)| token_end <= end);
            // Special tokens split a text first, so encoding from the last one on shows how the text up to the border
            // ends.
            let from = (0..*border).rev().find(is_special).unwrap_or(0);
            let start = if is_special(&from) { offsets[from].0 } else { 0 };
            let alone = tokenizer.encode_text(text.get(start..end).unwrap_or_default())?;
            if !alone.iter().copied().eq(ids[from..*border].iter().map(|&id| i64::from(id))) {
                return Ok(None);
            }
        }
        targets.push((borders[0]..borders[1], *is_target));
    }
    let first = targets.first().map_or(0, |(target, _)| target.start);
    let (mut prompt, mut response) = (Vec::new(), Vec::new());
    for (token, &id) in ids.iter().enumerate() {
        let id = i64::from(id);
        if token < first {
            prompt.push(id);
        } else {
            response.push((id, targets.iter().any(|(target, is_target)| *is_target && target.contains(&token))));
        }
    }
    Ok(Some((prompt, response)))
}

/// Encodes the text that each turn adds, after the tokens so far.
fn encode_by_turn(tokenizer: &Tokenizer, group: &[Turn]) -> Outcome<(Vec<i64>, Vec<Marked>)> {
    let first = tokenizer.encode_text(group.first().map_or("", |turn| &turn.prompt))?;
    let mut ids = first.clone();
    let mut response = Vec::new();
    let mut done = group.first().map_or(0, |turn| turn.prompt.len());
    for turn in group {
        for (text, is_target) in [(&turn.prompt, false), (&turn.whole, turn.is_target)] {
            if text.len() > done {
                let added = continuation(tokenizer, &ids, text, &text[done..])?;
                ids.extend(&added);
                response.extend(added.into_iter().map(|id| (id, is_target)));
                done = text.len();
            }
        }
    }
    Ok((first, response))
}
