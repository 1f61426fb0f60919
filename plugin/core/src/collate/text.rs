//! Rows of segments → the `[R, T]` fields of a batch and the targets of each sequence.

use tch::Tensor;

use super::batch::{CollateOptions, IGNORE_INDEX};
use super::rows::{Segment, Sequence};
use crate::Result;
use crate::tokenize::{TokenizedResponse, TokenizedSample};

/// Consecutive tokens of a row: a prompt, or a response.
struct Piece<'a> {
    /// Index of the first among all R·T places.
    start: usize,
    ids: &'a [i64],
    /// Position id of the first: for every response, the one after the prompt.
    first_position: usize,
    prompt: usize,
    answer: Option<Answer<'a>>,
}

struct Answer<'a> {
    sequence: usize,
    response: &'a TokenizedResponse,
    /// Place of the prompt's last token, which predicts the first token of every response; None without a prompt.
    predictor: Option<usize>,
}

impl Answer<'_> {
    /// Returns the targets of the response as (index among its tokens, place that predicts it); the response is at `start`.
    fn targets(&self, start: usize) -> impl Iterator<Item = (usize, usize)> {
        let is_target = |at: &usize| self.response.is_target.as_ref().is_none_or(|is_target| is_target[*at]);
        let predictor = move |at: usize| if at == 0 { self.predictor } else { Some(start + at - 1) };
        (0..self.response.ids.len()).filter(is_target).filter_map(move |at| Some((at, predictor(at)?)))
    }
}

/// The tokens of a batch, laid out.
pub(super) struct Text<'a> {
    pieces: Vec<Piece<'a>>,
    shape: [i64; 2],
    num_sequences: usize,
    /// Written and copied to a tensor for each field in turn: new memory costs more than writing to it.
    buffer: Vec<i64>,
}

/// The target tokens, one sequence after the other.
pub(super) struct TargetTokens {
    /// `[K]` places that predict them.
    pub(super) positions: Vec<i64>,
    /// `[K]` token ids.
    pub(super) ids: Vec<i64>,
    /// `[K]` index of the sequence of each.
    pub(super) sequences: Vec<i64>,
    /// `[S]` number of targets of each sequence.
    pub(super) num_tokens: Vec<i64>,
}

impl<'a> Text<'a> {
    pub(super) fn new(
        samples: &[&'a TokenizedSample],
        rows: &[Vec<Segment>],
        sequences: &[Sequence],
        options: &CollateOptions,
    ) -> Self {
        let length = |segment: &Segment| {
            let sample = samples[segment.prompt];
            let responses = &sample.responses[segment.first_response..][..segment.sequences.len()];
            sample.prompt.len() + responses.iter().map(|response| response.ids.len()).sum::<usize>()
        };
        let longest = rows.iter().map(|row| row.iter().map(length).sum::<usize>()).max().unwrap_or(0);
        // A batch without tokens is one block of padding: models reject empty rows.
        let width = longest.max(1).next_multiple_of(options.pad_to_multiple_of);
        let mut text = Self {
            pieces: Vec::new(),
            shape: [rows.len() as i64, width as i64],
            num_sequences: sequences.len(),
            buffer: vec![0; rows.len() * width],
        };
        for (r, row) in rows.iter().enumerate() {
            let mut at = r * width;
            for segment in row {
                at = text.add(at, segment, samples[segment.prompt]);
            }
        }
        text
    }

    /// Adds a segment at `start` and returns the place after it.
    fn add(&mut self, start: usize, segment: &Segment, sample: &'a TokenizedSample) -> usize {
        let prompt = segment.prompt;
        self.pieces.push(Piece { start, ids: &sample.prompt, first_position: 0, prompt, answer: None });
        let mut at = start + sample.prompt.len();
        let predictor = if sample.prompt.is_empty() { None } else { Some(at - 1) };
        for (sequence, response) in segment.sequences.clone().zip(&sample.responses[segment.first_response..]) {
            self.pieces.push(Piece {
                start: at,
                ids: &response.ids,
                first_position: sample.prompt.len(),
                prompt,
                answer: Some(Answer { sequence, response, predictor }),
            });
            at += response.ids.len();
        }
        at
    }

    /// Returns a field `[R, T]`: `write` fills the places of each piece, `padding` all others.
    fn field(&mut self, padding: i64, write: impl Fn(&mut [i64], &Piece)) -> Result<Tensor> {
        self.buffer.fill(padding);
        for piece in &self.pieces {
            write(&mut self.buffer[piece.start..][..piece.ids.len()], piece);
        }
        Ok(Tensor::f_from_slice(&self.buffer)?.f_reshape(self.shape)?)
    }

    pub(super) fn input_ids(&mut self, pad_token_id: i64) -> Result<Tensor> {
        self.field(pad_token_id, |places, piece| places.copy_from_slice(piece.ids))
    }

    pub(super) fn attention_mask(&mut self) -> Result<Tensor> {
        self.field(0, |places, _| places.fill(1))
    }

    pub(super) fn position_ids(&mut self) -> Result<Tensor> {
        self.field(0, |places, piece| {
            for (position, place) in (piece.first_position as i64..).zip(places) {
                *place = position;
            }
        })
    }

    pub(super) fn labels(&mut self) -> Result<Tensor> {
        self.field(IGNORE_INDEX, |places, piece| {
            for (at, _) in piece.answer.iter().flat_map(|answer| answer.targets(piece.start)) {
                places[at] = piece.ids[at];
            }
        })
    }

    pub(super) fn prompt_ids(&mut self) -> Result<Tensor> {
        self.field(-1, |places, piece| places.fill(piece.prompt as i64))
    }

    pub(super) fn sequence_ids(&mut self) -> Result<Tensor> {
        self.field(-1, |places, piece| {
            places.fill(piece.answer.as_ref().map_or(-1, |answer| answer.sequence as i64));
        })
    }

    pub(super) fn targets(&self) -> TargetTokens {
        let mut answers: Vec<(&Answer, &Piece)> =
            self.pieces.iter().filter_map(|piece| Some((piece.answer.as_ref()?, piece))).collect();
        // A packed row may contain a later prompt before an earlier one.
        answers.sort_unstable_by_key(|(answer, _)| answer.sequence);
        let capacity = answers.iter().map(|(_, piece)| piece.ids.len()).sum();
        let mut targets = TargetTokens {
            positions: Vec::with_capacity(capacity),
            ids: Vec::with_capacity(capacity),
            sequences: Vec::with_capacity(capacity),
            num_tokens: vec![0; self.num_sequences],
        };
        for (answer, piece) in answers {
            let before = targets.ids.len();
            for (at, predictor) in answer.targets(piece.start) {
                targets.positions.push(predictor as i64);
                targets.ids.push(piece.ids[at]);
            }
            targets.num_tokens[answer.sequence] = (targets.ids.len() - before) as i64;
            targets.sequences.resize(targets.ids.len(), answer.sequence as i64);
        }
        targets
    }
}
