//! Groups samples into batches of a limited number of tokens.

use std::ops::Range;

/// Tokens of a forward pass that scores records, padding included, unless a record has more by itself.
pub const SCORED_TOKENS: usize = 8192;

/// Groups samples of similar length into batches of at most `max_tokens`, padding included. A sample longer than that
/// is a batch by itself.
pub fn batches_by_length(
    mut samples: Vec<usize>,
    length: impl Fn(usize) -> usize,
    max_tokens: usize,
) -> Vec<Vec<usize>> {
    samples.sort_by_key(|sample| (std::cmp::Reverse(length(*sample)), *sample));
    let mut rest = samples.as_slice();
    let mut batches = Vec::new();
    while let Some(longest) = rest.first() {
        let num_rows = (max_tokens / length(*longest).max(1)).clamp(1, rest.len());
        let (batch, others) = rest.split_at(num_rows);
        batches.push(batch.to_vec());
        rest = others;
    }
    batches
}

/// Groups samples into batches of at most `max_tokens`, padding included, in the order that they have. A sample longer than
/// that is a batch by itself.
pub fn batches_in_order(num_samples: usize, length: impl Fn(usize) -> usize, max_tokens: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut longest) = (0, 0);
    for sample in 0..num_samples {
        let longest_with = longest.max(length(sample));
        if sample > start && longest_with * (sample + 1 - start) > max_tokens {
            batches.push(start..sample);
            (start, longest) = (sample, length(sample));
        } else {
            longest = longest_with;
        }
    }
    batches.extend((start < num_samples).then_some(start..num_samples));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_samples_of_similar_length() {
        let lengths = [10, 3, 3, 50, 4, 3, 0];
        let batches = batches_by_length((0..7).collect(), |sample| lengths[sample], 20);
        assert_eq!(batches, [vec![3], vec![0, 4], vec![1, 2, 5, 6]]);
        assert!(batches_by_length(Vec::new(), |_| 0, 20).is_empty());
    }

    #[test]
    fn batches_keep_the_order() {
        let lengths = [10, 3, 3, 50, 4, 3, 0];
        let batches = batches_in_order(7, |sample| lengths[sample], 20);
        assert_eq!(batches, [0..2, 2..3, 3..4, 4..7]);
        assert!(batches_in_order(0, |_| 0, 20).is_empty());
    }
}
