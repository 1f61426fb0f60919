//! Chooses the next token of each row: the most probable one, or a sample.

use tch::{Device, Kind, Tensor};

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
    for (row, top_p) in nuclei {
        let mut own = probabilities.f_get(row)?;
        let mut values = Vec::<f32>::try_from(own.f_to_device(Device::Cpu)?)?;
        keep_nucleus(&mut values, top_p);
        own.f_copy_(&Tensor::f_from_slice(&values)?)?;
    }
    let sums = probabilities.f_cumsum(-1, Kind::Double)?; // [rows, V]
    let totals = sums.f_narrow(1, vocab_size - 1, 1)?;
    let targets = Tensor::f_from_slice(&uniforms)?.f_to_device(sums.device())?.f_view([num_rows, 1])?.f_mul(&totals)?;
    // The first token whose sum is above the target, which has a probability above 0.
    let found = targets.f_searchsorted(&sums, false, true, "right", None::<Tensor>)?.f_clamp_max(vocab_size - 1)?;
    Ok(Vec::try_from(found.f_view([-1])?.f_to_device(Device::Cpu)?)?)
}

/// Sets all probabilities to 0 but the smallest set of largest ones whose sum is at least `top_p` of all; of equal ones,
/// the first.
///
/// Finds the smallest of them by quickselect over sums: linear in the vocabulary, which is never sorted.
fn keep_nucleus(probabilities: &mut [f32], top_p: f64) {
    let total: f64 = probabilities.iter().copied().map(f64::from).sum();
    let mut wanted = top_p * total;
    let mut rest: Vec<f32> = probabilities.to_vec();
    // Invariant: the least member is in `rest`, and the larger values outside of it sum to top_p · total − wanted.
    let least = loop {
        let pivot = middle(&rest);
        let (mut larger, mut equal) = (0.0, 0.0);
        for &value in &rest {
            if value > pivot {
                larger += f64::from(value);
            } else if value == pivot {
                equal += f64::from(value);
            }
        }
        if larger >= wanted {
            rest.retain(|&value| value > pivot);
        } else if larger + equal >= wanted || !rest.iter().any(|&value| value < pivot) {
            wanted -= larger;
            break pivot;
        } else {
            wanted -= larger + equal;
            rest.retain(|&value| value < pivot);
        }
    };
    for value in probabilities {
        if *value == least && wanted > 0.0 {
            wanted -= f64::from(*value);
        } else if *value <= least {
            *value = 0.0;
        }
    }
}

/// Returns the median of three values.
fn middle(values: &[f32]) -> f32 {
    let (first, middle, last) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    first.max(middle).min(first.min(middle).max(last))
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
    fn nuclei_are_those_of_a_sort() {
        tch::manual_seed(3);
        for (round, top_p) in [0.1, 0.5, 0.9, 0.999, 1e-9].into_iter().enumerate() {
            let values = Tensor::randn([997], (Kind::Float, Device::Cpu)) * (round as f64 + 0.5);
            // Rounded, so that some are equal.
            let probabilities = ((values * 4.0).round() / 4.0).softmax(-1, Kind::Float);
            let mut found: Vec<f32> = Vec::try_from(&probabilities).unwrap();
            let all = found.clone();
            keep_nucleus(&mut found, top_p);
            let mut order: Vec<usize> = (0..all.len()).collect();
            order.sort_by(|&left, &right| all[right].total_cmp(&all[left]));
            let total: f64 = all.iter().copied().map(f64::from).sum();
            let (mut sum, mut expected) = (0.0, vec![0.0; all.len()]);
            for index in order {
                if sum >= top_p * total * (1.0 - 1e-12) {
                    break;
                }
                sum += f64::from(all[index]);
                expected[index] = all[index];
            }
            assert_eq!(found, expected, "{top_p}");
        }
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
