//! Continues token ids, greedily or by sampling, with a cache of keys and values.

use std::ops::ControlFlow;

use tch::{Device, Kind, Tensor};

use crate::model::random::Random;
use crate::model::{KvCache, Model, ModelError};

/// How to continue.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Ends after this many tokens at the latest.
    pub max_new_tokens: usize,
    /// 0 takes the most probable token each time; otherwise logits are divided by it before sampling.
    pub temperature: f64,
    /// Samples among the most probable tokens that together have at least this probability.
    pub top_p: f64,
    /// Of the sampling.
    pub seed: u64,
    /// Tokens that end the text.
    pub eos_token_ids: Vec<i64>,
}

/// Gives the tokens that follow `prompt_ids`, an end token included where one came; `on_token` sees each as it comes and
/// may end the text.
///
/// # Errors
///
/// [`ModelError`] when the prompt is empty or not of the model's vocabulary, an option is out of range, or libtorch fails.
pub fn generate(
    model: &Model,
    prompt_ids: &[i64],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(i64) -> ControlFlow<()>,
) -> Result<Vec<i64>, ModelError> {
    check(prompt_ids, options)?;
    let mut generated = Vec::new();
    if options.max_new_tokens == 0 {
        return Ok(generated);
    }
    let mut random = Random::new(options.seed, 0);
    let mut cache = KvCache::new(model.config(), prompt_ids.len() + options.max_new_tokens);
    let mut input_ids = Tensor::f_from_slice(prompt_ids)?.f_unsqueeze(0)?; // [1, T]
    loop {
        let hidden = model.extend(&mut cache, &input_ids)?; // [1, H]
        let logits = tch::no_grad(|| hidden.f_linear(model.lm_head(), None::<Tensor>))?.f_to_kind(Kind::Float)?;
        let token = next_token(&logits.f_squeeze()?, options, &mut random)?;
        generated.push(token);
        let stops = on_token(token).is_break() || options.eos_token_ids.contains(&token);
        if stops || generated.len() == options.max_new_tokens {
            return Ok(generated);
        }
        input_ids = Tensor::f_from_slice(&[token])?.f_view([1, 1])?;
    }
}

fn check(prompt_ids: &[i64], options: &GenerateOptions) -> Result<(), ModelError> {
    if prompt_ids.is_empty() {
        return Err(ModelError::Request(
            "there is no token to continue from; give a prompt, or a tokenizer with a BOS token".into(),
        ));
    }
    let GenerateOptions { temperature, top_p, .. } = options;
    if !(temperature.is_finite() && *temperature >= 0.0) {
        return Err(ModelError::Request(format!("`temperature` must be 0 or above, found {temperature}")));
    }
    if !(*top_p > 0.0 && *top_p <= 1.0) {
        return Err(ModelError::Request(format!("`top_p` must be above 0 and at most 1, found {top_p}")));
    }
    Ok(())
}

/// # Shapes
///
/// `logits`: [V] float32.
fn next_token(logits: &Tensor, options: &GenerateOptions, random: &mut Random) -> Result<i64, ModelError> {
    if options.temperature == 0.0 {
        return Ok(logits.f_argmax(-1, false)?.f_int64_value(&[])?);
    }
    let logits = Vec::<f32>::try_from(logits.f_to_device(Device::Cpu)?)?;
    Ok(sample(&logits, options.temperature, options.top_p, random.unit()))
}

/// Draws a token with one uniform number: from the most probable down, until `top_p` of the mass.
fn sample(logits: &[f32], temperature: f64, top_p: f64, uniform: f64) -> i64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit - largest) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&left, &right| weights[right].total_cmp(&weights[left]));
    let (mut mass, mut kept) = (0.0, 0);
    for &token in &order {
        mass += weights[token];
        kept += 1;
        if mass >= top_p * total {
            break;
        }
    }
    order.truncate(kept);
    let mut left = uniform * mass;
    for &token in &order {
        left -= weights[token];
        if left < 0.0 {
            return token as i64;
        }
    }
    // Rounding may leave a last crumb of the mass.
    order.last().map_or(0, |&token| token as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampling_follows_the_probabilities() {
        let logits = [0.5_f32, 0.1, 0.4].map(f32::ln);
        let draws = |temperature, top_p| {
            let mut counts = [0; 3];
            for step in 0..1000 {
                counts[sample(&logits, temperature, top_p, (f64::from(step) + 0.5) / 1000.0) as usize] += 1;
            }
            counts
        };
        assert_eq!(draws(1.0, 1.0), [500, 100, 400]);
        assert_eq!(draws(1.0, 0.6), [556, 0, 444], "0.5 is not enough, 0.9 is");
        assert_eq!(draws(1.0, 0.4), [1000, 0, 0]);
        assert_eq!(draws(0.5, 1.0), [595, 24, 381], "squares: 25, 1, 16 of 42");
    }
}
