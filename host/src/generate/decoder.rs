//! Generates the continuations of prompts, several at once, with a key-value cache.

use std::ops::ControlFlow;

use tch::{Kind, Tensor};

use crate::model::random::Random;
use crate::model::{KvCache, Model, ModelError};

use super::options::GenerateOptions;
use super::sampler::{Next, next_tokens, sample};

/// Returns the tokens that follow `prompt_ids`, with the end token if there is one. `on_token` is called with each
/// token and may end the text.
///
/// # Errors
///
/// Returns a [`ModelError`] if the prompt is empty or has ids outside the model's vocabulary, an option is out of
/// range, or libtorch fails.
pub fn generate(
    model: &Model,
    prompt_ids: &[i64],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(i64) -> ControlFlow<()>,
) -> Result<Vec<i64>, ModelError> {
    let mut texts = decode(model, &[(0, prompt_ids)], options, on_token)?;
    Ok(texts.pop().unwrap_or_default())
}

/// Returns the tokens that follow each prompt, generated in batches of `batch_size` prompts of similar length.
/// `on_done` is called with the number of finished prompts.
///
/// Each prompt has its own stream of random numbers, numbered by its index in `prompts`, so the batches affect the
/// texts only through the rounding of the logits.
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
) -> Result<Vec<Vec<i64>>, ModelError> {
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&index| prompts[index].len());
    let mut texts = vec![Vec::new(); prompts.len()];
    let mut num_done = 0;
    for indices in order.chunks(batch_size.max(1)) {
        let rows: Vec<(usize, &[i64])> = indices.iter().map(|&index| (index, prompts[index].as_slice())).collect();
        let generated = decode(model, &rows, options, &mut |_| ControlFlow::Continue(()))?;
        for (&index, text) in indices.iter().zip(generated) {
            texts[index] = text;
        }
        num_done += indices.len();
        on_done(num_done);
    }
    Ok(texts)
}

/// A text that is being generated.
struct Text {
    /// Its index among the rows of the batch.
    slot: usize,
    random: Random,
    last: i64,
}

/// Generates the continuations of rows, pairs of (random stream, prompt), until all have ended.
fn decode(
    model: &Model,
    rows: &[(usize, &[i64])],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(i64) -> ControlFlow<()>,
) -> Result<Vec<Vec<i64>>, ModelError> {
    check(rows, options)?;
    let mut generated = vec![Vec::new(); rows.len()];
    if options.max_new_tokens == 0 {
        return Ok(generated);
    }
    let longest = rows.iter().map(|(_, prompt)| prompt.len()).max().unwrap_or(0);
    let padding = rows.iter().map(|(_, prompt)| (longest - prompt.len()) as i64).collect();
    let mut cache = KvCache::with_padding(model.config(), longest + options.max_new_tokens, padding);
    let start = |(slot, (stream, _)): (usize, &(usize, &[i64]))| Text {
        slot,
        random: Random::new(options.seed, *stream as u64),
        last: 0,
    };
    let mut texts: Vec<Text> = rows.iter().enumerate().map(start).collect();
    let mut input_ids = left_padded(rows, longest)?; // [rows, T]
    loop {
        let hidden = model.extend(&mut cache, &input_ids)?; // [rows, H]
        let logits = tch::no_grad(|| hidden.f_linear(model.lm_head(), None::<Tensor>))?.f_to_kind(Kind::Float)?;
        let mut unfinished = Vec::new();
        for (row, (text, token)) in (0..).zip(texts.iter_mut().zip(next_tokens(&logits, options)?)) {
            text.last = match token {
                Next::Token(token) => token,
                Next::Logits(logits) => sample(&logits, options.temperature, options.top_p, text.random.unit()),
            };
            let tokens = &mut generated[text.slot];
            tokens.push(text.last);
            let stops = on_token(text.last).is_break() || options.eos_token_ids.contains(&text.last);
            if !stops && tokens.len() < options.max_new_tokens {
                unfinished.push(row);
            }
        }
        if unfinished.is_empty() {
            return Ok(generated);
        }
        if unfinished.len() < texts.len() {
            cache.keep_rows(&unfinished)?;
            let mut row = 0;
            texts.retain(|_| {
                row += 1;
                unfinished.binary_search(&(row - 1)).is_ok()
            });
        }
        let last: Vec<i64> = texts.iter().map(|text| text.last).collect();
        input_ids = Tensor::f_from_slice(&last)?.f_unsqueeze(1)?;
    }
}

fn check(rows: &[(usize, &[i64])], options: &GenerateOptions) -> Result<(), ModelError> {
    if rows.iter().any(|(_, prompt)| prompt.is_empty()) {
        return Err(ModelError::Request(
            "there is no token to continue from; give a prompt, or a tokenizer with a BOS token".into(),
        ));
    }
    super::options::check(options)
}

/// Returns the prompts as [rows, longest], padded on the left with token 0.
fn left_padded(rows: &[(usize, &[i64])], longest: usize) -> Result<Tensor, ModelError> {
    let mut ids = Vec::with_capacity(rows.len() * longest);
    for (_, prompt) in rows {
        ids.resize(ids.len() + longest - prompt.len(), 0);
        ids.extend_from_slice(prompt);
    }
    Ok(Tensor::f_from_slice(&ids)?.f_view([rows.len() as i64, longest as i64])?)
}
