//! A prompt with its responses.

use ndarray::{Array2, Axis};
use serde_json::Value;

use super::answers::check_answer;
use super::printed::{check_fields, check_response};
use super::ranks::ranks;
use super::samples::{TokenizeOptions, Tokenized, TokenizedResponse, TokenizedSample};
use super::tokenizer::{Outcome, Tokenizer};
use super::truncate::truncate;
use crate::convert::{PREFERENCE, Sample, Skipped};
use crate::record::Message;

/// Tokenises a prompt with its responses. The prompt, and each whole conversation of prompt and response, is encoded
/// once.
pub(super) fn tokenize(tokenizer: &Tokenizer, sample: &Sample, options: &TokenizeOptions) -> Outcome<Tokenized> {
    let mut messages = sample.prompt.to_messages();
    let tools = sample.tools.as_ref();
    check_fields(tokenizer, &messages, tools, false)?;
    let mut prompt = Prompt::new(tokenizer, &messages, tools)?;
    let mut responses = Vec::with_capacity(sample.responses.len());
    for (response_index, response) in sample.responses.iter().enumerate() {
        messages.push(sample.answer(response_index));
        check_response(tokenizer, &messages, tools, response_index)?;
        let whole = tokenizer.render_with_tools(&messages, tools, false)?;
        prompt.check_answer(tokenizer, &whole, response, || name_of(sample, response_index))?;
        let ids = prompt.added(tokenizer, &whole)?;
        messages.pop();
        responses.push(TokenizedResponse { response_index, ids, is_target: None });
    }

    let mut tokenized = Tokenized::default();
    if let Some(cutoff_len) = options.cutoff_len {
        tokenized.num_truncated = truncate(&mut prompt.ids, &mut responses, cutoff_len).into();
    }
    let num_responses = responses.len();
    if !options.keep_all {
        responses.retain(|response| !response.ids.is_empty());
    }
    tokenized.num_dropped_responses = (num_responses - responses.len()) as u64;
    let pi_target = kept_targets(&sample.pi_target, &responses);
    match reason_to_skip(&prompt.ids, &responses, &pi_target).filter(|_| !options.keep_all) {
        Some(reason) => tokenized.skipped.push(reason),
        None => {
            let ranks = ranks(&pi_target, Some(&kept_columns(&sample.ratings, &responses)));
            tokenized.samples.push(TokenizedSample {
                record_index: sample.record_index,
                prompt: prompt.ids,
                responses,
                pi_target: pi_target.mapv(|p| p as f32),
                ranks,
            });
        }
    }
    Ok(tokenized)
}

/// Returns the field of a response: the two of a pair have names.
fn name_of(sample: &Sample, response_index: usize) -> String {
    match (sample.dimensions.as_slice(), sample.responses.len(), response_index) {
        ([only], 2, 0) if only == PREFERENCE => "chosen".to_owned(),
        ([only], 2, 1) if only == PREFERENCE => "rejected".to_owned(),
        _ => format!("responses[{response_index}]"),
    }
}

fn reason_to_skip(prompt: &[i64], responses: &[TokenizedResponse], pi_target: &Array2<f64>) -> Option<Skipped> {
    if responses.len() < 2 {
        Some(Skipped::FewerThanTwoResponses)
    } else if prompt.is_empty() {
        Some(Skipped::EmptyPrompt)
    } else {
        pi_target.iter().all(|p| p.is_nan()).then_some(Skipped::NoRatedDimension)
    }
}

/// Returns the columns of the responses kept, each row renormalised; a row with fewer than two entries left is all NaN.
fn kept_targets(pi_target: &Array2<f64>, responses: &[TokenizedResponse]) -> Array2<f64> {
    let mut targets = kept_columns(pi_target, responses); // [M, N]
    for mut row in targets.rows_mut() {
        let finite = || row.iter().filter(|p| p.is_finite());
        let (count, sum) = (finite().count(), finite().sum::<f64>());
        // A distribution whose mass lies entirely on dropped responses says nothing about the others.
        let scale = if count < 2 || sum <= 0.0 { f64::NAN } else { sum.recip() };
        if responses.len() < pi_target.ncols() || scale.is_nan() {
            row.mapv_inplace(|p| p * scale);
        }
    }
    targets
}

/// Returns the columns of the responses kept.
fn kept_columns(values: &Array2<f64>, responses: &[TokenizedResponse]) -> Array2<f64> {
    let kept: Vec<usize> = responses.iter().map(|response| response.response_index).collect();
    values.select(Axis(1), &kept)
}

/// A prompt as text and as tokens.
pub(super) struct Prompt<'a> {
    messages: Vec<Message>,
    tools: Option<&'a Value>,
    text: String,
    pub(super) ids: Vec<i64>,
}

impl<'a> Prompt<'a> {
    pub(super) fn new(tokenizer: &Tokenizer, messages: &[Message], tools: Option<&'a Value>) -> Outcome<Self> {
        let text = tokenizer.render_with_tools(messages, tools, true)?;
        let ids = tokenizer.encode_text(&text)?;
        Ok(Self { messages: messages.to_vec(), tools, text, ids })
    }

    /// Fails if the template does not print all of an answer in `whole`, the rendered conversation.
    pub(super) fn check_answer(
        &self,
        tokenizer: &Tokenizer,
        whole: &str,
        answer: &str,
        name: impl FnOnce() -> String,
    ) -> Outcome<()> {
        let conversation = || tokenizer.render_with_tools(&self.messages, self.tools, false);
        check_answer(whole, &self.text, conversation, answer, name)
    }

    /// Returns the tokens that `whole`, the rendered conversation, adds to this prompt: those after the prompt's tokens
    /// in the encoded conversation or, if the conversation does not start with these, the added text encoded by itself.
    pub(super) fn added(&self, tokenizer: &Tokenizer, whole: &str) -> Outcome<Vec<i64>> {
        match whole.strip_prefix(&self.text) {
            Some(text) => continuation(tokenizer, &self.ids, whole, text),
            None => tokenizer.encode_after(&self.ids, self.beyond_header(tokenizer, whole)?),
        }
    }

    /// Returns the text of an answer if the template's header for an answer to come differs from that of a given answer
    /// (because it opens a thinking block, say): the answer follows the common start of any two given answers, which
    /// must contain the whole conversation before them.
    fn beyond_header<'w>(&self, tokenizer: &Tokenizer, whole: &'w str) -> Outcome<&'w str> {
        let given = |answer: &str| {
            let messages = [self.messages.as_slice(), &[Message::new("assistant", answer)]].concat();
            tokenizer.render_with_tools(&messages, self.tools, false)
        };
        let (probe, other) = (given("A")?, given("B")?);
        let header = &probe[..common_prefix(&probe, &other)];
        let conversation = tokenizer.render_with_tools(&self.messages, self.tools, false)?;
        let has_conversation = common_prefix(&self.text, header) >= common_prefix(&self.text, &conversation);
        whole.strip_prefix(header).filter(|_| has_conversation).ok_or_else(|| {
            "the chat template renders the prompt differently once an answer follows it; name one that does not as \
             `data.chat_template`"
                .to_owned()
        })
    }
}

/// Returns the tokens of `added`, the end of `whole`, after the tokens of the text before it.
pub(super) fn continuation(tokenizer: &Tokenizer, before: &[i64], whole: &str, added: &str) -> Outcome<Vec<i64>> {
    let ids = tokenizer.encode_text(whole)?;
    match ids.strip_prefix(before) {
        Some(after) => Ok(after.to_vec()),
        None => tokenizer.encode_after(before, added),
    }
}

/// Returns the length in bytes of the common start of two texts, in whole characters.
pub(super) fn common_prefix(a: &str, b: &str) -> usize {
    let pairs = a.char_indices().zip(b.chars());
    pairs.take_while(|((_, a), b)| a == b).last().map_or(0, |((i, c), _)| i + c.len_utf8())
}
