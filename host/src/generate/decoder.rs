//! Generates the continuations of prompts that are all known from the start.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::model::{Model, ModelError};

use super::engine::Engine;
use super::options::{GenerateOptions, check};
use super::request::{Ending, Event, Request};

/// A generated text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generated {
    /// Its tokens, without an end token.
    pub tokens: Vec<i64>,
    /// The end token that the model chose; None if the text has as many tokens as it may have, or was ended from outside.
    pub end_token: Option<i64>,
}

impl Generated {
    /// Returns whether the model ended it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end_token.is_some()
    }

    /// Returns the tokens that the model has chosen, the end token included.
    pub fn chosen(&self) -> impl Iterator<Item = i64> {
        self.tokens.iter().copied().chain(self.end_token)
    }

    /// Returns the number of tokens that the model has chosen, with the end token.
    #[must_use]
    pub fn num_chosen(&self) -> usize {
        self.tokens.len() + usize::from(self.has_ended())
    }
}

/// Generates the text that follows `prompt_ids`. `on_token` is called with each token and may end the text.
///
/// # Errors
///
/// Returns a [`ModelError`] if the prompt is empty, as long as the model's context or has ids outside its vocabulary, an
/// option is out of range, the logits are not finite numbers, or libtorch fails.
pub fn generate(
    model: &Model,
    prompt_ids: &[i64],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(i64) -> ControlFlow<()>,
) -> Result<Generated, ModelError> {
    let mut engine = Engine::new(model, 1);
    engine.add(request(prompt_ids, options, 0))?;
    let mut text = Generated::default();
    while !engine.is_idle() {
        for (_, event) in engine.step()? {
            if take(&mut text, event)?.is_some_and(|token| on_token(token).is_break()) {
                return Ok(text);
            }
        }
    }
    Ok(text)
}

/// Generates the texts that follow each prompt, up to `batch_size` at once. `on_done` is called with the number of texts
/// that are finished.
///
/// Each prompt has its own stream of random numbers, numbered by its index in `prompts`, so the other prompts affect a
/// text only through the rounding of the logits.
///
/// # Errors
///
/// The same as those of [`generate`].
pub fn generate_all(
    model: &Model,
    prompts: &[Vec<i64>],
    options: &GenerateOptions,
    batch_size: usize,
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<Generated>, ModelError> {
    let numbered: Vec<(u64, &[i64])> = (0..).zip(prompts).map(|(stream, prompt)| (stream, prompt.as_slice())).collect();
    generate_streams(model, &numbered, options, batch_size, on_done)
}

/// Does the same as [`generate_all`] for pairs of (number of the stream of random numbers, prompt).
///
/// # Errors
///
/// The same as those of [`generate`]; what is wrong with a prompt is told with the number of its stream.
pub fn generate_streams(
    model: &Model,
    prompts: &[(u64, &[i64])],
    options: &GenerateOptions,
    batch_size: usize,
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<Generated>, ModelError> {
    check(options)?;
    let mut engine = Engine::new(model, batch_size);
    // Prompts of similar length, and equal ones, begin together.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| (prompts[index].1.len(), prompts[index].1, index));
    let mut index_of = HashMap::new();
    for index in order {
        let (stream, prompt) = prompts[index];
        let row = engine.add(request(prompt, options, stream)).map_err(|error| match error {
            ModelError::Request(reason) => ModelError::Request(format!("prompt {stream}: {reason}")),
            other => other,
        })?;
        index_of.insert(row, index);
    }
    let mut texts = vec![Generated::default(); prompts.len()];
    let mut num_done = 0;
    while !engine.is_idle() {
        let before = num_done;
        for (row, event) in engine.step()? {
            num_done += usize::from(matches!(event, Event::End(_)));
            take(&mut texts[index_of[&row]], event)?;
        }
        if num_done > before {
            on_done(num_done);
        }
    }
    Ok(texts)
}

fn request(prompt: &[i64], options: &GenerateOptions, stream: u64) -> Request {
    Request {
        prompt: prompt.to_vec(),
        lambda: None,
        options: options.clone(),
        stream,
        top_log_probs: None,
        prompt_log_probs: false,
    }
}

/// Adds an event to its text, and returns the token that it adds.
fn take(text: &mut Generated, event: Event) -> Result<Option<i64>, ModelError> {
    match event {
        Event::Token(token) => {
            text.tokens.push(token.id);
            return Ok(Some(token.id));
        }
        Event::End(Ending::Failed(reason)) => return Err(ModelError::Request(reason)),
        Event::End(Ending::Stop(id)) => text.end_token = Some(id),
        Event::Prompt(_) | Event::End(Ending::Length) => {}
    }
    Ok(None)
}
