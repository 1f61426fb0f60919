//! Chooses the next token of each row: the most probable one, or a sample.

use tch::{Device, Tensor};

use crate::model::ModelError;

use super::options::GenerateOptions;

/// A row's next token, or the logits to sample it from.
pub(super) enum Next {
    /// The most probable token.
    Token(i64),
    /// Logits to sample from, `[V]`.
    Logits(Vec<f32>),
}

/// Returns the most probable tokens if the temperature is 0, else the logits of each row.
///
/// # Shapes
///
/// `logits`: [rows, V] float32.
///
/// # Errors
///
/// Returns a [`ModelError`] if a row has no largest logit, because one is NaN or none is finite.
pub(super) fn next_tokens(logits: &Tensor, options: &GenerateOptions) -> Result<Vec<Next>, ModelError> {
    // NaN is the largest of all to libtorch.
    if logits.f_amax(-1, false)?.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
        return Err(ModelError::Request(
            "the model's logits are not finite numbers, so there is no next token; check the weights of the model and its \
             adapter"
                .into(),
        ));
    }
    if options.temperature == 0.0 {
        let tokens = Vec::<i64>::try_from(logits.f_argmax(-1, false)?.f_to_device(Device::Cpu)?)?;
        return Ok(tokens.into_iter().map(Next::Token).collect());
    }
    let rows = Vec::<Vec<f32>>::try_from(logits.f_to_device(Device::Cpu)?)?;
    Ok(rows.into_iter().map(Next::Logits).collect())
}

/// Samples a token with one uniform random number, among all or among the most probable with a total of `top_p`.
pub(super) fn sample(logits: &[f32], temperature: f64, top_p: f64, uniform: f64) -> i64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&logit| (f64::from(logit - largest) / temperature).exp()).collect();
    let mut mass: f64 = weights.iter().sum();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    if top_p < 1.0 {
        order.sort_by(|&left, &right| weights[right].total_cmp(&weights[left]));
        let (total, mut num_candidates) = (mass, 0);
        mass = 0.0;
        for &token in &order {
            mass += weights[token];
            num_candidates += 1;
            if mass >= top_p * total {
                break;
            }
        }
        order.truncate(num_candidates);
    }
    let mut left = uniform * mass;
    for &token in &order {
        left -= weights[token];
        if left < 0.0 {
            return token as i64;
        }
    }
    // Rounding errors may leave a remainder.
    let likely = order.into_iter().max_by(|&left, &right| weights[left].total_cmp(&weights[right]));
    likely.map_or(0, |token| token as i64)
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
