//! Chooses the next token of each row: the most probable one, or a sample.

use lambda_dpo_kernels::keep_nucleus;
use tch::{Device, Kind, Tensor};

use crate::libtorch::parallel;
use crate::model::ModelError;

/// How a row's next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    /// The most probable token.
    Greedy,
    /// A sample.
    Sample {
        /// Divides the logits; above 0.
        temperature: f64,
        /// Samples from the smallest set of most probable tokens whose total probability is at least this.
        top_p: f64,
        /// A random number from [0, 1).
        uniform: f64,
    },
}

/// Returns the next token of each row, or None if its logits are not finite numbers.
///
/// # Shapes
///
/// `logits`: [rows, V] float32, with a choice for each row.
///
/// # Numerics
///
/// Probabilities are float32, their sums float64. No row depends on another.
pub(super) fn choose(logits: &Tensor, choices: &[Choice]) -> Result<Vec<Option<i64>>, ModelError> {
    // NaN is the largest of all to libtorch.
    let (largest, most_probable) = logits.f_max_dim(-1, false)?;
    let is_finite = Vec::<bool>::try_from(largest.f_isfinite()?.f_to_device(Device::Cpu)?)?;
    let mut tokens: Vec<i64> = Vec::try_from(most_probable.f_to_device(Device::Cpu)?)?;
    let (mut rows, mut temperatures) = (Vec::new(), Vec::new());
    for (row, choice) in choices.iter().enumerate() {
        if let Choice::Sample { temperature, .. } = choice
            && is_finite[row]
        {
            rows.push(row as i64);
            temperatures.push(*temperature);
        }
    }
    if !rows.is_empty() {
        let device = logits.device();
        let own = if rows.len() == tokens.len() {
            logits.shallow_clone()
        } else {
            logits.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(device)?)?
        };
        let temperatures = Tensor::f_from_slice(&temperatures)?.f_to_device(device)?.f_to_kind(Kind::Float)?;
        // The largest logit first becomes 0, so that none overflows at a low temperature.
        let scaled = own.f_sub(&own.f_amax(-1, true)?)?.f_div(&temperatures.f_unsqueeze(1)?)?;
        let probabilities = scaled.f_softmax(-1, Kind::Float)?;
        let sampled = sample(&probabilities, rows.iter().map(|&row| choices[row as usize]))?;
        for (row, token) in rows.iter().zip(sampled) {
            tokens[*row as usize] = token;
        }
    }
    Ok(tokens.into_iter().zip(is_finite).map(|(token, is_finite)| is_finite.then_some(token)).collect())
}

/// Samples a token of each row by the inverse of its cumulative probability.
fn sample(probabilities: &Tensor, choices: impl Iterator<Item = Choice>) -> Result<Vec<i64>, ModelError> {
    let (num_rows, vocab_size) = probabilities.size2()?;
    let mut uniforms = Vec::new();
    let mut nuclei = Vec::new();
    for (row, choice) in (0..).zip(choices) {
        let Choice::Sample { top_p, uniform, .. } = choice else { continue };
        uniforms.push(uniform);
        if top_p < 1.0 {
            nuclei.push((row, top_p));
        }
    }
    keep_nuclei(probabilities, &nuclei)?;
    let sums = probabilities.f_cumsum(-1, Kind::Double)?; // [rows, V]
    let totals = sums.f_narrow(1, vocab_size - 1, 1)?;
    let targets = Tensor::f_from_slice(&uniforms)?.f_to_device(sums.device())?.f_view([num_rows, 1])?.f_mul(&totals)?;
    // The first token whose sum is above the target, which has a probability above 0.
    let found = targets.f_searchsorted(&sums, false, true, "right", None::<Tensor>)?.f_clamp_max(vocab_size - 1)?;
    Ok(Vec::try_from(found.f_view([-1])?.f_to_device(Device::Cpu)?)?)
}

/// Keeps only the nucleus of some rows: their index and the total probability that it has at least.
fn keep_nuclei(probabilities: &Tensor, nuclei: &[(i64, f64)]) -> Result<(), ModelError> {
    if nuclei.is_empty() {
        return Ok(());
    }
    let indices: Vec<i64> = nuclei.iter().map(|(row, _)| *row).collect();
    let indices = Tensor::f_from_slice(&indices)?.f_to_device(probabilities.device())?;
    let rows = probabilities.f_index_select(0, &indices)?;
    let mut values = Vec::<f32>::try_from(rows.f_to_device(Device::Cpu)?.f_view([-1])?)?;
    let vocab_size = values.len() / nuclei.len();
    let by_row = values.chunks_mut(vocab_size).zip(nuclei);
    parallel::for_each(by_row, |(row, (_, top_p))| keep_nucleus(row, *top_p))?;
    let kept = Tensor::f_from_slice(&values)?.f_view_as(&rows)?.f_to_device(probabilities.device())?;
    let _ = probabilities.shallow_clone().f_index_copy_(0, &indices, &kept)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn sampled(logits: &Tensor, temperature: f64, top_p: f64, uniform: f64) -> i64 {
        choose(logits, &[Choice::Sample { temperature, top_p, uniform }]).unwrap()[0].unwrap()
    }

    #[test]
    fn sampling_follows_the_probabilities() {
        let logits = Tensor::from_slice(&[0.5_f32, 0.1, 0.4]).log().unsqueeze(0);
        let draws = |temperature, top_p| {
            let mut counts = [0; 3];
            for step in 0..1000 {
                counts[sampled(&logits, temperature, top_p, (f64::from(step) + 0.5) / 1000.0) as usize] += 1;
            }
            counts
        };
        assert_eq!(draws(1.0, 1.0), [500, 100, 400]);
        assert_eq!(draws(1.0, 0.6), [556, 0, 444], "0.5 is not enough, 0.9 is");
        assert_eq!(draws(1.0, 0.4), [1000, 0, 0]);
        assert_eq!(draws(0.5, 1.0), [595, 24, 381], "squares: 25, 1, 16 of 42");
        assert_eq!(draws(1e-30, 1.0), [1000, 0, 0]);
    }

    #[test]
    fn rows_are_independent() {
        let logits = Tensor::from_slice(&[0.0_f32, 3.0, 1.0, f32::NAN, 0.0, 0.0, 0.0, 0.0, 9.0]).view([3, 3]);
        let sample = |uniform| Choice::Sample { temperature: 1.0, top_p: 0.5, uniform };
        assert_eq!(choose(&logits, &[Choice::Greedy, Choice::Greedy, sample(0.9)]).unwrap(), [Some(1), None, Some(2)]);
        let infinite = Tensor::from_slice(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY]).unsqueeze(0);
        assert_eq!(choose(&infinite, &[sample(0.999)]).unwrap(), [Some(1)]);
    }
}
