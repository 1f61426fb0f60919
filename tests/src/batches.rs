//! Samples, batches and hidden states for the tests of collation, log-probs and loss.

#![expect(clippy::unwrap_used, reason = "tests")]

use lambda_dpo_core::{
    Batch, CollateOptions, Layout, LossInputs, LossOptions, Reduction, TokenizedResponse, TokenizedSample, Wants,
    collate, loss_forward,
};
use lambda_dpo_host::model::ModelInputs;
use lambda_dpo_host::plugin;
use ndarray::Array2;
use tch::{Kind, Tensor};

/// Every layout.
pub const LAYOUTS: [Layout; 3] = [Layout::Expanded, Layout::Rows, Layout::Packed];
/// Size of the vocabulary.
pub const VOCAB: i64 = 23;
/// Size of the hidden states.
pub const HIDDEN: i64 = 6;

/// SplitMix64: the same numbers on every machine, independent of torch's shared generator.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns a number in `from..=to`.
    pub fn between(&mut self, from: usize, to: usize) -> usize {
        from + (self.next() % (to - from + 1) as u64) as usize
    }

    /// Returns a number from approximately N(0, 1): the sum of 12 uniform ones, less its mean.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Returns a tensor of normal numbers.
    pub fn tensor(&mut self, shape: &[i64], kind: Kind) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.normal()).collect();
        Tensor::from_slice(&values).reshape(shape).to_kind(kind)
    }

    /// Returns a point on the simplex; some of its weights may be zero.
    pub fn lambda(&mut self, m: usize) -> Vec<f64> {
        let mut weights: Vec<f64> = (0..m).map(|_| (self.uniform() - 0.2).max(0.0)).collect();
        weights[0] += 0.1;
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        weights
    }
}

/// Softmax over the finite ratings of each row [M, N]; NaN for a rating of NaN.
pub fn pi_target(ratings: &Array2<f64>) -> Array2<f32> {
    let mut pi = ratings.mapv(f64::exp);
    for mut row in pi.rows_mut() {
        let sum: f64 = row.iter().filter(|e| e.is_finite()).sum();
        row.mapv_inplace(|e| e / sum);
    }
    pi.mapv(|p| p as f32)
}

/// A sample with the given lengths, random tokens and ratings; a rating is missing with probability `missing`.
pub fn sample(
    rng: &mut Rng,
    record_index: u64,
    prompt: usize,
    responses: &[usize],
    m: usize,
    missing: f64,
) -> TokenizedSample {
    let tokens =
        |rng: &mut Rng, n: usize| (0..n).map(|_| rng.between(1, VOCAB as usize - 1) as i64).collect::<Vec<_>>();
    let rating = |rng: &mut Rng| if rng.uniform() < missing { f64::NAN } else { rng.between(1, 5) as f64 };
    let ratings = Array2::from_shape_fn((m, responses.len()), |_| rating(rng));
    TokenizedSample::new(
        record_index,
        tokens(rng, prompt),
        (0..responses.len())
            .map(|i| TokenizedResponse { response_index: i, ids: tokens(rng, responses[i]), is_target: None })
            .collect(),
        pi_target(&ratings),
    )
}

/// Prompts with 2 to 5 responses of 1 to 7 tokens each, rated in `m` dimensions.
pub fn ragged_samples(rng: &mut Rng, num_prompts: usize, m: usize, missing: f64) -> Vec<TokenizedSample> {
    (0..num_prompts)
        .map(|b| {
            let n = rng.between(2, 5);
            let lengths: Vec<usize> = (0..n).map(|_| rng.between(1, 7)).collect();
            let prompt = rng.between(1, 8);
            sample(rng, b as u64, prompt, &lengths, m, missing)
        })
        .collect()
}

/// Options for rows padded to a multiple of 8, one prompt to a packed row.
pub fn collate_options(layout: Layout) -> CollateOptions {
    CollateOptions { layout, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 0 }
}

/// Collates samples with [`collate_options`].
pub fn batch_of(samples: &[TokenizedSample], lambda: &[f64], layout: Layout) -> Batch {
    let samples: Vec<_> = samples.iter().collect();
    collate(&samples, lambda, &collate_options(layout)).unwrap()
}

/// Options of the listwise loss with β = 0.7.
pub fn loss_options(reduction: Reduction, wants: Wants) -> LossOptions {
    LossOptions { reduction, beta: 0.7, wants, ..LossOptions::default() }
}

/// The gradient of the hidden states.
pub const WANTS_HIDDEN: Wants = Wants { hidden: true, lm_head: false, logits: false, sequence_log_probs: false };
/// The gradients of the hidden states and the LM head.
pub const WANTS_BOTH: Wants = Wants { hidden: true, lm_head: true, logits: false, sequence_log_probs: false };
/// The gradient of the logits.
pub const WANTS_LOGITS: Wants = Wants { hidden: false, lm_head: false, logits: true, sequence_log_probs: false };
/// The gradient of the sequence log-probs.
pub const WANTS_SEQUENCES: Wants = Wants { hidden: false, lm_head: false, logits: false, sequence_log_probs: true };

/// The model's inputs.
pub fn model_inputs(batch: &Batch) -> ModelInputs<'_> {
    ModelInputs {
        input_ids: &batch.input_ids,
        position_ids: &batch.position_ids,
        prompt_ids: &batch.prompt_ids,
        sequence_ids: &batch.sequence_ids,
        lambda: Some(&batch.lambda),
    }
}

/// The batch's part of the loss inputs; the caller adds hidden states, logits or log-probs.
pub fn loss_inputs(batch: &Batch) -> LossInputs<'_> {
    LossInputs {
        target_positions: Some(&batch.target_positions),
        target_ids: Some(&batch.target_ids),
        target_sequences: Some(&batch.target_sequences),
        num_sequences: batch.sequence_num_tokens.size()[0],
        sequence_num_tokens: Some(&batch.sequence_num_tokens),
        prompt_offsets: Some(&batch.prompt_offsets),
        sequence_index: Some(&batch.sequence_index),
        pi_target: Some(&batch.pi_target),
        target_mask: Some(&batch.target_mask),
        ranks: Some(&batch.ranks),
        lambda: Some(&batch.lambda),
        ..LossInputs::default()
    }
}

/// Converts inputs of the core to those of the table.
pub fn exported<'a>(inputs: &LossInputs<'a>) -> plugin::LossInputs<'a> {
    plugin::LossInputs {
        hidden: inputs.hidden,
        lm_head: inputs.lm_head,
        logits: inputs.logits,
        sequence_log_probs: inputs.sequence_log_probs,
        target_positions: inputs.target_positions,
        target_ids: inputs.target_ids,
        target_sequences: inputs.target_sequences,
        num_sequences: inputs.num_sequences,
        sequence_num_tokens: inputs.sequence_num_tokens,
        reference_log_probs: inputs.reference_log_probs,
        prompt_offsets: inputs.prompt_offsets,
        sequence_index: inputs.sequence_index,
        pi_target: inputs.pi_target,
        target_mask: inputs.target_mask,
        ranks: inputs.ranks,
        lambda: inputs.lambda,
    }
}

/// Options of the core as those of the table.
pub fn exported_options(options: &LossOptions) -> plugin::LossOptions {
    plugin::LossOptions {
        objective: options.objective,
        reduction: options.reduction,
        beta: options.beta,
        label_smoothing: options.label_smoothing,
        simpo_gamma: options.simpo_gamma,
        sft_weight: options.sft_weight,
        normalizer: options.normalizer,
        logits_budget_bytes: options.logits_budget_bytes,
        paper_exact: options.paper_exact,
        wants: plugin::Wants {
            hidden: options.wants.hidden,
            lm_head: options.wants.lm_head,
            logits: options.wants.logits,
            sequence_log_probs: options.wants.sequence_log_probs,
        },
    }
}

/// All elements of an int64 tensor.
pub fn integers(tensor: &Tensor) -> Vec<i64> {
    Vec::<i64>::try_from(tensor.reshape([-1])).unwrap()
}

/// All elements of a tensor as float64.
pub fn floats(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.reshape([-1]).to_kind(Kind::Double)).unwrap()
}

/// The response (of the C) that each sequence of a batch holds.
pub fn sequence_responses(batch: &Batch) -> Vec<i64> {
    let offsets = integers(&batch.prompt_offsets);
    let responses = integers(&batch.sequence_responses);
    integers(&batch.sequence_prompts).iter().zip(responses).map(|(b, i)| offsets[*b as usize] + i).collect()
}

/// [R·T]: for each token of a batch, its index (response, position) in [C, P] flattened; −1 for padding.
///
/// Prompt tokens have the index of their prompt's first response: with a causal model they are the same for all.
pub fn places(batch: &Batch, max_positions: i64) -> Vec<i64> {
    let (prompts, sequences) = (integers(&batch.prompt_ids), integers(&batch.sequence_ids));
    let (positions, offsets) = (integers(&batch.position_ids), integers(&batch.prompt_offsets));
    let responses = sequence_responses(batch);
    let row_length = batch.input_ids.size()[1] as usize;
    let row_sequence = |at: usize| {
        let row = at - at % row_length;
        sequences[row..row + row_length].iter().copied().find(|s| *s >= 0)
    };
    (0..prompts.len())
        .map(|at| match (prompts[at], sequences[at]) {
            (-1, _) => -1,
            // In a row with one sequence, the prompt tokens belong to that sequence.
            (b, -1) if batch.input_ids.size()[0] == responses.len() as i64 => {
                row_sequence(at).map_or(offsets[b as usize], |s| responses[s as usize]) * max_positions + positions[at]
            }
            (b, -1) => offsets[b as usize] * max_positions + positions[at],
            (_, s) => responses[s as usize] * max_positions + positions[at],
        })
        .collect()
}

/// Hidden states [R, T, H] of a batch from those of each response [C, P, H]; padding is NaN, so that using it is
/// noticed.
pub fn spread(hidden: &Tensor, batch: &Batch) -> Tensor {
    let (p, h) = (hidden.size()[1], hidden.size()[2]);
    let places = Tensor::from_slice(&places(batch, p));
    let rows = hidden.reshape([-1, h]).index_select(0, &places.clamp_min(0));
    let padding = places.lt(0).unsqueeze(1);
    let size = batch.input_ids.size();
    rows.masked_fill(&padding, f64::NAN).reshape([size[0], size[1], h])
}

/// The adjoint of [`spread`]: gradients of a batch's hidden states, summed into [C, P, H] in float64.
pub fn gather(grad: &Tensor, batch: &Batch, num_responses: i64, max_positions: i64) -> Tensor {
    let h = grad.size()[2];
    let places = Tensor::from_slice(&places(batch, max_positions));
    let rows = grad.reshape([-1, h]).to_kind(Kind::Double).masked_fill(&places.lt(0).unsqueeze(1), 0.0);
    let mut sum = Tensor::zeros([num_responses * max_positions, h], (Kind::Double, grad.device()));
    let _ = sum.index_add_(0, &places.clamp_min(0), &rows);
    sum.reshape([num_responses, max_positions, h])
}

/// Random hidden states [C, P, H] that are equal for all responses of a prompt at the prompt's positions, as those of a
/// causal model are.
pub fn causal_hidden(rng: &mut Rng, samples: &[TokenizedSample], kind: Kind) -> Tensor {
    let longest = |s: &TokenizedSample| s.prompt.len() + s.responses.iter().map(|r| r.ids.len()).max().unwrap_or(0);
    let p = samples.iter().map(longest).max().unwrap_or(0) as i64;
    let mut rows = Vec::new();
    for sample in samples {
        let prompt = rng.tensor(&[sample.prompt.len() as i64, HIDDEN], kind);
        for _ in &sample.responses {
            let rest = rng.tensor(&[p - sample.prompt.len() as i64, HIDDEN], kind);
            rows.push(Tensor::cat(&[&prompt, &rest], 0));
        }
    }
    Tensor::stack(&rows, 0)
}

/// max |a − b| / max |b|.
pub fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    let scale = b.abs().max().double_value(&[]);
    let error = (a - b).abs().max().double_value(&[]);
    if error == 0.0 { 0.0 } else { error / scale }
}

/// |a − b| / |b|.
pub fn relative(a: f64, b: f64) -> f64 {
    (a - b).abs() / b.abs()
}

/// A batch with the other inputs of a loss from hidden states.
pub struct Problem {
    /// The batch.
    pub batch: Batch,
    /// Hidden states [R, T, H], zero at padding.
    pub hidden: Tensor,
    /// LM head [V, H].
    pub lm_head: Tensor,
    /// Reference log-probs `[S]`.
    pub reference: Tensor,
}

impl Problem {
    /// Three prompts with differing N, ratings missing for odd seeds, some zeros in λ, in one of the three layouts.
    pub fn random(seed: u64, kind: Kind) -> Self {
        let mut rng = Rng(seed);
        let m = rng.between(1, 5);
        let missing = if seed.is_multiple_of(2) { 0.0 } else { 0.3 };
        let samples = ragged_samples(&mut rng, 3, m, missing);
        let lambda: Vec<f64> = (0..3).flat_map(|_| rng.lambda(m)).collect();
        Self::of(&mut rng, &samples, &lambda, LAYOUTS[seed as usize % 3], kind)
    }

    /// Random hidden states, LM head and reference for given samples.
    pub fn of(rng: &mut Rng, samples: &[TokenizedSample], lambda: &[f64], layout: Layout, kind: Kind) -> Self {
        let batch = batch_of(samples, lambda, layout);
        let hidden = spread(&causal_hidden(rng, samples, Kind::Double), &batch);
        Self {
            hidden: hidden.nan_to_num(0.0, None, None).to_kind(kind),
            lm_head: rng.tensor(&[VOCAB, HIDDEN], kind),
            reference: rng.tensor(&[batch.sequence_num_tokens.size()[0]], kind),
            batch,
        }
    }

    /// Loss inputs from hidden states and LM head.
    pub fn inputs(&self) -> LossInputs<'_> {
        LossInputs {
            hidden: Some(&self.hidden),
            lm_head: Some(&self.lm_head),
            reference_log_probs: Some(&self.reference),
            ..loss_inputs(&self.batch)
        }
    }

    /// Loss inputs from logits.
    pub fn with_logits<'a>(&'a self, logits: &'a Tensor) -> LossInputs<'a> {
        LossInputs { hidden: None, lm_head: None, logits: Some(logits), ..self.inputs() }
    }

    /// Loss inputs from sequence log-probs, which need no targets.
    pub fn with_log_probs<'a>(&'a self, sequence_log_probs: &'a Tensor) -> LossInputs<'a> {
        LossInputs {
            hidden: None,
            lm_head: None,
            sequence_log_probs: Some(sequence_log_probs),
            target_positions: None,
            target_ids: None,
            target_sequences: None,
            ..self.inputs()
        }
    }

    /// The logits [R, T, V].
    pub fn logits(&self) -> Tensor {
        self.hidden.matmul(&self.lm_head.transpose(0, 1))
    }
}

/// The loss, without gradients.
pub fn loss(inputs: &LossInputs, options: &LossOptions) -> f64 {
    let options = LossOptions { wants: Wants::default(), ..*options };
    loss_forward(inputs, &options).unwrap().0.loss.double_value(&[])
}
