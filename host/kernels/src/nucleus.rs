//! The nucleus of a distribution over a vocabulary: the tokens that top-p sampling draws from.

/// Sets all probabilities to 0 but the smallest set of largest ones whose sum is at least `top_p` of all; of equal ones,
/// the first.
///
/// Finds the smallest of them by quickselect over sums: linear in the vocabulary, which is never sorted.
pub fn keep_nucleus(probabilities: &mut [f32], top_p: f64) {
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
    use super::*;

    /// Probabilities of logits between −4 and 4, times `spread`, rounded so that some are equal.
    fn probabilities(len: usize, spread: f64) -> Vec<f32> {
        let mut state = 3_u64;
        let weights = (0..len).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = (state >> 40) as f64 / f64::from(1 << 24);
            (spread * ((uniform * 8.0 - 4.0) * 4.0).round() / 4.0).exp()
        });
        let weights: Vec<f64> = weights.collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| (weight / total) as f32).collect()
    }

    #[test]
    fn nuclei_are_those_of_a_sort() {
        for (round, top_p) in [0.1, 0.5, 0.9, 0.999, 1e-9].into_iter().enumerate() {
            let all = probabilities(997, round as f64 + 0.5);
            let mut found = all.clone();
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
}
