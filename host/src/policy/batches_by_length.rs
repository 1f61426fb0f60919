//! Groups samples of similar length into batches.

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
}
