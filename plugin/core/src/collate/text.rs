//! Rows of segments → the `[R, T]` fields of a batch and the targets of each sequence.

use std::ops::Range;

use super::CollateOptions;
use crate::{IGNORE_INDEX, TokenizedResponse, TokenizedSample};

/// A prompt followed by sequences that answer it.
pub(super) struct Segment {
    pub(super) prompt: usize,
    pub(super) sequences: Range<usize>,
    /// Place of the first of them among the responses of the sample.
    pub(super) first_response: usize,
}

/// The `[R, T]` fields, and the targets of each sequence.
pub(super) struct Text {
    pub(super) width: usize,
    pub(super) input_ids: Vec<i64>,
    pub(super) attention_mask: Vec<i64>,
    pub(super) position_ids: Vec<i64>,
    pub(super) labels: Vec<i64>,
    pub(super) prompt_ids: Vec<i64>,
    pub(super) sequence_ids: Vec<i64>,
    /// By sequence: (position that predicts, token to predict).
    pub(super) targets: Vec<Vec<(i64, i64)>>,
}

impl Text {
    pub(super) fn write(
        samples: &[&TokenizedSample],
        rows: &[Vec<Segment>],
        num_sequences: usize,
        options: &CollateOptions,
    ) -> Self {
        let length = |segment: &Segment| {
            let sample = samples[segment.prompt];
            let responses = &sample.responses[segment.first_response..][..segment.sequences.len()];
            sample.prompt.len() + responses.iter().map(|response| response.ids.len()).sum::<usize>()
        };
        let longest = rows.iter().map(|row| row.iter().map(length).sum::<usize>()).max().unwrap_or(0);
        // A batch without a token is one block of padding: models refuse rows of no length.
        let width = longest.max(1).next_multiple_of(options.pad_to_multiple_of);
        let len = rows.len() * width;
        let mut text = Self {
            width,
            input_ids: vec![options.pad_token_id; len],
            attention_mask: vec![0; len],
            position_ids: vec![0; len],
            labels: vec![IGNORE_INDEX; len],
            prompt_ids: vec![-1; len],
            sequence_ids: vec![-1; len],
            targets: vec![Vec::new(); num_sequences],
        };
        for (r, row) in rows.iter().enumerate() {
            let mut at = r * width;
            for segment in row {
                at = text.write_segment(at, segment, samples[segment.prompt]);
            }
        }
        text
    }

    /// Returns where the next segment begins.
    fn write_segment(&mut self, start: usize, segment: &Segment, sample: &TokenizedSample) -> usize {
        for (position, id) in sample.prompt.iter().enumerate() {
            self.write_token(start + position, *id, position, segment.prompt);
        }
        let prompt_end = start + sample.prompt.len();
        // The prompt's last token predicts the first token of every response that follows.
        let predictor = prompt_end.checked_sub(1).filter(|_| !sample.prompt.is_empty());
        let mut at = prompt_end;
        for (sequence, response) in segment.sequences.clone().zip(&sample.responses[segment.first_response..]) {
            for (offset, id) in response.ids.iter().enumerate() {
                self.write_token(at, *id, sample.prompt.len() + offset, segment.prompt);
                self.sequence_ids[at] = sequence as i64;
                let predictor = if offset == 0 { predictor } else { Some(at - 1) };
                if let Some(predictor) = predictor.filter(|_| is_target(response, offset)) {
                    self.labels[at] = *id;
                    self.targets[sequence].push((predictor as i64, *id));
                }
                at += 1;
            }
        }
        at
    }

    fn write_token(&mut self, at: usize, id: i64, position: usize, prompt: usize) {
        self.input_ids[at] = id;
        self.attention_mask[at] = 1;
        self.position_ids[at] = position as i64;
        self.prompt_ids[at] = prompt as i64;
    }
}

fn is_target(response: &TokenizedResponse, offset: usize) -> bool {
    response.is_target.as_ref().is_none_or(|is_target| is_target[offset])
}
