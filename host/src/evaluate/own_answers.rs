//! Answers that the policy samples, and what they tell about its divergence from the reference.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::generate::{GenerateOptions, Generated, generate_streams};
use crate::model::{Model, ModelInputs};
use crate::plugin::{LossInputs, LossOptions, Plugin};
use crate::policy::batches_by_length::batches_by_length;

use super::estimate::Estimate;
use super::policies::Policies;

/// Tokens of a forward pass, padding included, unless a prompt has more by itself.
const MAX_TOKENS: usize = 8192;

/// Generates `num_samples` answers to each of the prompts, which are token ids; `on_done` is called with the number of answers
/// that are finished.
///
/// The first answer to each prompt has the random numbers that it would have if there were no others.
pub(super) fn sample(
    model: &Model,
    prompts: &[Vec<i64>],
    num_samples: usize,
    options: &GenerateOptions,
    batch_size: usize,
    on_done: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Generated>>> {
    let one = |sample: usize| (0..).zip(prompts).map(move |(index, prompt)| (sample * prompts.len() + index, prompt));
    let streams: Vec<(u64, &[i64])> =
        (0..num_samples).flat_map(one).map(|(stream, prompt)| (stream as u64, prompt.as_slice())).collect();
    let mut answers = vec![Vec::new(); prompts.len()];
    for (index, generated) in generate_streams(model, &streams, options, batch_size, on_done)?.into_iter().enumerate() {
        answers[index % prompts.len()].push(generated);
    }
    Ok(answers)
}

/// Estimates KL(π‖π_ref) from answers sampled from π, one group of answers for each prompt. None without a reference.
///
/// # Equation
///
/// Over the tokens t of an answer, the end token included, with r_t = π_ref(t) / π(t): k1 = −Σ_t log r_t and
/// k3 = Σ_t (r_t − 1 − log r_t). Both have the divergence of the distributions of answers as their expectation; k3 is never
/// negative (J. Schulman, "Approximating KL Divergence", 2020).
pub(super) fn divergence(
    policies: &mut Policies,
    plugin: &Plugin,
    prompts: &[Vec<i64>],
    answers: &[Vec<Generated>],
) -> Result<Option<(Estimate, Estimate)>> {
    let own = token_log_probs(policies.policy(), plugin, prompts, answers)?;
    let Some(reference) = policies.with_reference(|model| token_log_probs(model, plugin, prompts, answers))? else {
        return Ok(None);
    };
    let estimate = |term: fn(f64) -> f64| {
        let of_answer = |(own, reference): (&Vec<f64>, &Vec<f64>)| {
            own.iter().zip(reference).map(|(own, reference)| term(reference - own)).sum()
        };
        let of_prompt = |(own, reference): (&Vec<Vec<f64>>, &Vec<Vec<f64>>)| {
            own.iter().zip(reference).map(of_answer).collect::<Vec<f64>>()
        };
        Estimate::of_groups(&own.iter().zip(&reference).map(of_prompt).collect::<Vec<_>>())
    };
    Ok(estimate(|log_r| -log_r).zip(estimate(|log_r| log_r.exp_m1() - log_r)))
}

/// Returns the log-prob of each chosen token of each answer to each prompt.
fn token_log_probs(
    model: &Model,
    plugin: &Plugin,
    prompts: &[Vec<i64>],
    answers: &[Vec<Generated>],
) -> Result<Vec<Vec<Vec<f64>>>> {
    let length =
        |prompt: usize| prompts[prompt].len() + answers[prompt].iter().map(Generated::num_chosen).sum::<usize>();
    let mut found: Vec<Vec<Vec<f64>>> = vec![Vec::new(); prompts.len()];
    for batch in batches_by_length((0..prompts.len()).collect(), length, MAX_TOKENS) {
        let mut rows = Rows::new(batch.iter().map(|&prompt| length(prompt)).max().unwrap_or(0));
        for &prompt in &batch {
            rows.push(&prompts[prompt], &answers[prompt]);
        }
        let mut values = rows.log_probs(model, plugin)?.into_iter();
        for prompt in batch {
            let of_answer = |answer: &Generated| values.by_ref().take(answer.num_chosen()).collect();
            found[prompt] = answers[prompt].iter().map(of_answer).collect();
        }
    }
    Ok(found)
}

/// Packed rows, one for each prompt: the prompt, then its answers, then padding.
struct Rows {
    width: usize,
    input_ids: Vec<i64>,
    position_ids: Vec<i64>,
    prompt_ids: Vec<i64>,
    sequence_ids: Vec<i64>,
    target_positions: Vec<i64>,
    target_ids: Vec<i64>,
    target_sequences: Vec<i64>,
    num_rows: i64,
    num_sequences: i64,
}

impl Rows {
    fn new(width: usize) -> Self {
        let (input_ids, position_ids, prompt_ids, sequence_ids) = Default::default();
        let (target_positions, target_ids, target_sequences) = Default::default();
        Self {
            width,
            input_ids,
            position_ids,
            prompt_ids,
            sequence_ids,
            target_positions,
            target_ids,
            target_sequences,
            num_rows: 0,
            num_sequences: 0,
        }
    }

    fn push(&mut self, prompt: &[i64], answers: &[Generated]) {
        let end = self.input_ids.len() + self.width;
        self.extend(prompt.iter().copied(), 0, -1);
        let last = self.input_ids.len() as i64 - 1;
        for answer in answers {
            let first = self.input_ids.len() as i64;
            // The prompt's last token predicts the first token, and each token the one after it.
            self.target_positions.extend(std::iter::once(last).chain(first..).take(answer.num_chosen()));
            self.target_ids.extend(answer.chosen());
            self.target_sequences.extend(answer.chosen().map(|_| self.num_sequences));
            self.extend(answer.chosen(), prompt.len() as i64, self.num_sequences);
            self.num_sequences += 1;
        }
        self.input_ids.resize(end, 0);
        self.position_ids.resize(end, 0);
        self.prompt_ids.resize(end, -1);
        self.sequence_ids.resize(end, -1);
        self.num_rows += 1;
    }

    fn extend(&mut self, ids: impl Iterator<Item = i64>, first_position: i64, sequence: i64) {
        let before = self.input_ids.len();
        self.input_ids.extend(ids);
        let count = self.input_ids.len() - before;
        self.position_ids.extend((first_position..).take(count));
        self.prompt_ids.extend(std::iter::repeat_n(self.num_rows, count));
        self.sequence_ids.extend(std::iter::repeat_n(sequence, count));
    }

    /// Returns the log-probs of the targets, `[K]`.
    fn log_probs(&self, model: &Model, plugin: &Plugin) -> Result<Vec<f64>> {
        let rows = |values: &[i64]| Tensor::f_from_slice(values)?.f_view([self.num_rows, self.width as i64]);
        let (input_ids, position_ids) = (rows(&self.input_ids)?, rows(&self.position_ids)?);
        let (prompt_ids, sequence_ids) = (rows(&self.prompt_ids)?, rows(&self.sequence_ids)?);
        let hidden = model.hidden(&ModelInputs {
            input_ids: &input_ids,
            position_ids: &position_ids,
            prompt_ids: &prompt_ids,
            sequence_ids: &sequence_ids,
            lambda: None,
        })?;
        let target_positions = Tensor::f_from_slice(&self.target_positions)?;
        let target_ids = Tensor::f_from_slice(&self.target_ids)?;
        let target_sequences = Tensor::f_from_slice(&self.target_sequences)?;
        let inputs = LossInputs {
            hidden: Some(&hidden),
            lm_head: Some(model.lm_head()),
            target_positions: Some(&target_positions),
            target_ids: Some(&target_ids),
            target_sequences: Some(&target_sequences),
            num_sequences: self.num_sequences,
            ..LossInputs::default()
        };
        let (tokens, _) = plugin.log_probs(&inputs, &LossOptions::default())?;
        Ok(Vec::try_from(tokens.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?)
    }
}
