//! Samples → rows of segments: the only difference between the layouts.

use std::ops::Range;

use super::batch::CollateOptions;
use crate::Layout;
use crate::tokenize::TokenizedSample;

/// A prompt followed by sequences that answer it.
pub(super) struct Segment {
    pub(super) prompt: usize,
    pub(super) sequences: Range<usize>,
    /// Index of the first of them among the responses of the sample.
    pub(super) first_response: usize,
}

/// A response in the batch.
pub(super) struct Sequence {
    /// Index of its prompt in the batch.
    pub(super) prompt: usize,
    /// Index among the responses of its sample.
    pub(super) response: usize,
}

/// Returns the sequences, ordered by prompt, dimension (expanded only), response.
pub(super) fn sequences(samples: &[&TokenizedSample], num_dimensions: usize, layout: Layout) -> Vec<Sequence> {
    let copies = copies(num_dimensions, layout);
    let of_prompt = |prompt: usize, n: usize| {
        (0..copies).flat_map(move |_| (0..n).map(move |response| Sequence { prompt, response }))
    };
    samples.iter().enumerate().flat_map(|(prompt, sample)| of_prompt(prompt, sample.responses.len())).collect()
}

/// Returns how often each response occurs in the batch.
pub(super) fn copies(num_dimensions: usize, layout: Layout) -> usize {
    if layout == Layout::Expanded { num_dimensions.max(1) } else { 1 }
}

/// Returns the segments of each row.
pub(super) fn rows(
    samples: &[&TokenizedSample],
    sequences: &[Sequence],
    options: &CollateOptions,
) -> Vec<Vec<Segment>> {
    if options.layout != Layout::Packed {
        let segment = |(s, sequence): (usize, &Sequence)| {
            vec![Segment { prompt: sequence.prompt, sequences: s..s + 1, first_response: sequence.response }]
        };
        return sequences.iter().enumerate().map(segment).collect();
    }
    let offsets = offsets(samples);
    let segment =
        |prompt: usize| Segment { prompt, sequences: offsets[prompt]..offsets[prompt + 1], first_response: 0 };
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.num_tokens()).collect();
    pack(&lengths, options.max_tokens).into_iter().map(|row| row.into_iter().map(segment).collect()).collect()
}

/// Chooses the prompts that share each row, first-fit decreasing. Rows, and prompts within a row, keep the caller's order.
fn pack(lengths: &[usize], max_tokens: Option<usize>) -> Vec<Vec<usize>> {
    let Some(max_tokens) = max_tokens else {
        return (0..lengths.len()).map(|prompt| vec![prompt]).collect();
    };
    let mut by_length: Vec<usize> = (0..lengths.len()).collect();
    by_length.sort_by_key(|prompt| std::cmp::Reverse(lengths[*prompt]));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for prompt in by_length {
        let length = lengths[prompt];
        match rows.iter_mut().find(|(used, _)| used + length <= max_tokens) {
            Some((used, row)) => {
                *used += length;
                row.push(prompt);
            }
            None => rows.push((length, vec![prompt])),
        }
    }
    let mut rows: Vec<Vec<usize>> = rows.into_iter().map(|(_, row)| row).collect();
    rows.iter_mut().for_each(|row| row.sort_unstable());
    rows.sort_unstable();
    rows
}

/// Returns `[B + 1]` offsets of each prompt's responses among all responses.
pub(super) fn offsets(samples: &[&TokenizedSample]) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(samples.iter().scan(0, |end, sample| {
        *end += sample.responses.len();
        Some(*end)
    }));
    offsets
}
