//! Stage 4: [`TokenizedSample`]s and λ → [`Batch`].
//!
//! All layouts are lists of rows, rows are lists of segments, and a segment is a prompt followed by some of its
//! responses. Only the list of rows differs from layout to layout; how a row is written does not.

mod text;

use ndarray::ArrayView1;
use tch::Tensor;

use self::text::{Segment, Text};
use crate::{Error, Layout, Result, TokenizedSample};

/// How samples become a batch; fields as in the ABI's `CollateOptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollateOptions {
    /// The layout.
    pub layout: Layout,
    /// Packed: prompts share a row up to this many tokens; None is one prompt a row.
    ///
    /// A prompt whose tokens alone are more keeps a row to itself.
    pub max_tokens: Option<usize>,
    /// Rows are padded to a multiple of this.
    pub pad_to_multiple_of: usize,
    /// Fills padding.
    pub pad_token_id: i64,
}

/// Tensors on the CPU; fields, shapes and dtypes as in the ABI's `Batch`.
#[derive(Debug)]
pub struct Batch {
    /// `[R, T]`
    pub input_ids: Tensor,
    /// `[R, T]`
    pub attention_mask: Tensor,
    /// `[R, T]`
    pub position_ids: Tensor,
    /// `[R, T]`
    pub labels: Tensor,
    /// `[R, T]`
    pub prompt_ids: Tensor,
    /// `[R, T]`
    pub sequence_ids: Tensor,
    /// `[K]`
    pub target_positions: Tensor,
    /// `[K]`
    pub target_ids: Tensor,
    /// `[K]`
    pub target_sequences: Tensor,
    /// `[S]`
    pub sequence_num_tokens: Tensor,
    /// `[S]`
    pub sequence_prompts: Tensor,
    /// `[S]`
    pub sequence_responses: Tensor,
    /// `[B + 1]`
    pub prompt_offsets: Tensor,
    /// `[M, C]`
    pub sequence_index: Tensor,
    /// `[M, C]` float32
    pub pi_target: Tensor,
    /// `[M, C]` bool
    pub target_mask: Tensor,
    /// `[B, M]` float32
    pub lambda: Tensor,
    /// `[B]`
    pub record_indices: Tensor,
    /// Prompts with a dimension of positive weight.
    pub num_contributing: u64,
}

/// Lays out samples as tensors and renormalises λ over the dimensions that count for each prompt.
///
/// `lambda` is `[B, M]` row-major, as drawn; it is empty for conversations (M = 0). In the expanded layout a sample without
/// dimensions has one row per response. Packed rows are filled first-fit, the longest prompt first; the prompts' slots in
/// the batch keep the caller's order. The first token of a response to an empty prompt has nothing to predict it and is
/// no target.
///
/// # Shapes
///
/// As in the ABI's `Batch`. Rows are padded on the right to the longest, rounded up to `pad_to_multiple_of`.
///
/// # Errors
///
/// No samples; samples that differ in M or contradict themselves; a λ of the wrong length, negative or not finite.
pub fn collate(samples: &[&TokenizedSample], lambda: &[f64], options: &CollateOptions) -> Result<Batch> {
    let num_dimensions = check(samples, lambda, options)?;
    let sequences = sequences(samples, num_dimensions, options.layout);
    let rows = rows(samples, &sequences, options);
    let mut text = Text::new(samples, &rows, &sequences, options);
    let predicted = text.targets();
    let targets = Targets::new(samples, lambda, num_dimensions, options.layout);
    let (b, m, c) = (samples.len() as i64, num_dimensions as i64, targets.num_responses as i64);

    Ok(Batch {
        input_ids: text.input_ids(options.pad_token_id)?,
        attention_mask: text.attention_mask()?,
        position_ids: text.position_ids()?,
        labels: text.labels()?,
        prompt_ids: text.prompt_ids()?,
        sequence_ids: text.sequence_ids()?,
        target_positions: Tensor::f_from_slice(&predicted.positions)?,
        target_ids: Tensor::f_from_slice(&predicted.ids)?,
        target_sequences: Tensor::f_from_slice(&predicted.sequences)?,
        sequence_num_tokens: Tensor::f_from_slice(&predicted.num_tokens)?,
        sequence_prompts: list(sequences.iter().map(|sequence| sequence.prompt as i64))?,
        sequence_responses: list(
            sequences
                .iter()
                .map(|sequence| samples[sequence.prompt].responses[sequence.response].response_index as i64),
        )?,
        prompt_offsets: list(offsets(samples).into_iter().map(|offset| offset as i64))?,
        sequence_index: Tensor::f_from_slice(&targets.sequence_index)?.f_reshape([m, c])?,
        pi_target: Tensor::f_from_slice(&targets.pi_target)?.f_reshape([m, c])?,
        target_mask: Tensor::f_from_slice(&targets.mask)?.f_reshape([m, c])?,
        lambda: Tensor::f_from_slice(&targets.lambda)?.f_reshape([b, m])?,
        record_indices: list(samples.iter().map(|sample| sample.record_index as i64))?,
        num_contributing: targets.num_contributing,
    })
}

/// Returns M.
fn check(samples: &[&TokenizedSample], lambda: &[f64], options: &CollateOptions) -> Result<usize> {
    let Some(first) = samples.first() else {
        return invalid("a batch needs at least one sample, but none were given".into());
    };
    if options.pad_to_multiple_of == 0 {
        return invalid("pad_to_multiple_of is 0, but it must be at least 1".into());
    }
    let m = first.pi_target.nrows();
    for sample in samples {
        let record = sample.record_index;
        if sample.pi_target.nrows() != m {
            return invalid(format!(
                "record {record} has {} dimensions, but record {} of the same batch has {m}: convert all with the same \
                 dimensions",
                sample.pi_target.nrows(),
                first.record_index
            ));
        }
        if m > 0 && sample.pi_target.ncols() != sample.responses.len() {
            return invalid(format!(
                "record {record} has {} responses, but its pi_target has {} columns",
                sample.responses.len(),
                sample.pi_target.ncols()
            ));
        }
        for (i, response) in sample.responses.iter().enumerate() {
            if response.is_target.as_ref().is_some_and(|is_target| is_target.len() != response.ids.len()) {
                return invalid(format!("response {i} of record {record}: is_target and ids differ in length"));
            }
        }
    }
    if lambda.len() != samples.len() * m {
        return invalid(format!(
            "lambda has {} numbers, but {} samples of {m} dimensions need {}",
            lambda.len(),
            samples.len(),
            samples.len() * m
        ));
    }
    if let Some(at) = lambda.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0)) {
        return invalid(format!(
            "lambda of record {} is {} at dimension {}, but it must be a finite number of at least 0",
            samples[at / m].record_index,
            lambda[at],
            at % m
        ));
    }
    Ok(m)
}

/// A response as it stands in the batch.
struct Sequence {
    /// Its prompt's slot.
    prompt: usize,
    /// Its place among the responses of its sample.
    response: usize,
}

/// The sequences in order: prompt, dimension (expanded only), response.
fn sequences(samples: &[&TokenizedSample], num_dimensions: usize, layout: Layout) -> Vec<Sequence> {
    let copies = copies(num_dimensions, layout);
    let of_prompt = |prompt: usize, n: usize| {
        (0..copies).flat_map(move |_| (0..n).map(move |response| Sequence { prompt, response }))
    };
    samples.iter().enumerate().flat_map(|(prompt, sample)| of_prompt(prompt, sample.responses.len())).collect()
}

/// How often each response stands in the batch.
fn copies(num_dimensions: usize, layout: Layout) -> usize {
    if layout == Layout::Expanded { num_dimensions.max(1) } else { 1 }
}

fn rows(samples: &[&TokenizedSample], sequences: &[Sequence], options: &CollateOptions) -> Vec<Vec<Segment>> {
    if options.layout != Layout::Packed {
        let segment = |(s, sequence): (usize, &Sequence)| {
            vec![Segment { prompt: sequence.prompt, sequences: s..s + 1, first_response: sequence.response }]
        };
        return sequences.iter().enumerate().map(segment).collect();
    }
    let offsets = offsets(samples);
    let segment =
        |prompt: usize| Segment { prompt, sequences: offsets[prompt]..offsets[prompt + 1], first_response: 0 };
    let lengths: Vec<usize> = samples.iter().map(|sample| num_tokens(sample)).collect();
    pack(&lengths, options.max_tokens).into_iter().map(|row| row.into_iter().map(segment).collect()).collect()
}

/// First-fit decreasing: which prompts share a row. Rows, and prompts within a row, come in the caller's order.
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

/// Tokens of a sample with its prompt once.
fn num_tokens(sample: &TokenizedSample) -> usize {
    sample.prompt.len() + sample.responses.iter().map(|response| response.ids.len()).sum::<usize>()
}

/// `[B + 1]` where each prompt's responses begin among all responses.
fn offsets(samples: &[&TokenizedSample]) -> Vec<usize> {
    let mut offsets = vec![0];
    offsets.extend(samples.iter().scan(0, |end, sample| {
        *end += sample.responses.len();
        Some(*end)
    }));
    offsets
}

/// The fields of the listwise loss.
struct Targets {
    /// C.
    num_responses: usize,
    /// `[M, C]`
    sequence_index: Vec<i64>,
    /// `[M, C]`
    pi_target: Vec<f32>,
    /// `[M, C]`
    mask: Vec<bool>,
    /// `[B, M]`
    lambda: Vec<f32>,
    num_contributing: u64,
}

impl Targets {
    fn new(samples: &[&TokenizedSample], lambda: &[f64], num_dimensions: usize, layout: Layout) -> Self {
        let (m, offsets) = (num_dimensions, offsets(samples));
        let num_responses = offsets[samples.len()];
        let copies = copies(m, layout);
        let mut targets = Self {
            num_responses,
            sequence_index: vec![0; m * num_responses],
            pi_target: vec![0.0; m * num_responses],
            mask: vec![false; m * num_responses],
            lambda: Vec::with_capacity(lambda.len()),
            num_contributing: 0,
        };
        for (b, sample) in samples.iter().enumerate() {
            let rates_two = |p: ArrayView1<f32>| p.iter().filter(|p| p.is_finite()).count() >= 2;
            let counts: Vec<bool> = sample.pi_target.rows().into_iter().map(rates_two).collect();
            targets.add_lambda(&counts, &lambda[b * m..][..m]);
            for (k, counts) in counts.into_iter().enumerate() {
                for i in 0..sample.responses.len() {
                    let (at, p) = (k * num_responses + offsets[b] + i, sample.pi_target[[k, i]]);
                    let copy = if copies > 1 { k } else { 0 };
                    targets.sequence_index[at] = (copies * offsets[b] + copy * sample.responses.len() + i) as i64;
                    targets.mask[at] = counts && p.is_finite();
                    targets.pi_target[at] = if targets.mask[at] { p } else { 0.0 };
                }
            }
        }
        targets
    }

    /// Appends λ': λ over the dimensions that count, scaled to sum to 1 again.
    fn add_lambda(&mut self, counts: &[bool], lambda: &[f64]) {
        let counting = lambda.iter().zip(counts).map(|(weight, counts)| if *counts { *weight } else { 0.0 });
        let mass: f64 = counting.clone().sum();
        self.num_contributing += u64::from(mass > 0.0);
        self.lambda.extend(counting.map(|weight| if mass > 0.0 { (weight / mass) as f32 } else { 0.0 }));
    }
}

fn list(values: impl Iterator<Item = i64>) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&values.collect::<Vec<_>>())?)
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidArgument(message))
}
