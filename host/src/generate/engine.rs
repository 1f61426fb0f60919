//! Generates texts together: each joins after its prefill and leaves when it ends.

use tch::{Kind, Tensor};

use crate::model::random::Random;
use crate::model::{Model, ModelError, ModelInputs};

use super::options::check;
use super::request::{Ending, Event, Request, RowId, Token, TokenLogProbs};
use super::sampler::{Next, next_tokens, sample};

/// Texts in generation.
pub struct Engine<'m> {
    model: &'m Model,
    max_batch_size: usize,
    next_id: u64,
    waiting: Vec<Row>,
    running: Vec<Row>,
}

struct Row {
    id: RowId,
    request: Request,
    random: Random,
    tokens: Vec<i64>,
}

impl<'m> Engine<'m> {
    /// Creates an engine that generates up to `max_batch_size` texts at once.
    #[must_use]
    pub fn new(model: &'m Model, max_batch_size: usize) -> Self {
        Self { model, max_batch_size: max_batch_size.max(1), next_id: 0, waiting: Vec::new(), running: Vec::new() }
    }

    /// Adds a text, which begins in one of the next steps.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the prompt is empty or has ids outside the model's vocabulary, an option is out of
    /// range, or λ does not belong to the model.
    pub fn add(&mut self, request: Request) -> Result<RowId, ModelError> {
        check(&request.options)?;
        let id = RowId(self.next_id);
        self.next_id += 1;
        let random = Random::new(request.options.seed, request.stream);
        self.waiting.push(Row { id, request, random, tokens: Vec::new() });
        Ok(id)
    }

    /// Drops a text, in whatever state it is.
    pub fn remove(&mut self, id: RowId) {
        self.waiting.retain(|row| row.id != id);
        self.running.retain(|row| row.id != id);
    }

    /// Returns the number of texts that are being generated.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Returns the number of texts that have not begun.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Lets waiting texts begin, or generates the next token of each text.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if libtorch fails; the texts are then lost.
    pub fn step(&mut self) -> Result<Vec<(RowId, Event)>, ModelError> {
        while self.running.len() < self.max_batch_size && !self.waiting.is_empty() {
            self.running.push(self.waiting.remove(0));
        }
        let mut events = Vec::new();
        for mut row in std::mem::take(&mut self.running) {
            let mut ids = row.request.prompt.clone();
            ids.extend(&row.tokens);
            let length = ids.len() as i64;
            let input_ids = Tensor::from_slice(&ids).view([1, length]);
            let zeros = input_ids.zeros_like();
            let lambda = row.request.lambda.as_ref().map(|lambda| Tensor::from_slice(lambda).unsqueeze(0));
            let hidden = self.model.hidden(&ModelInputs {
                input_ids: &input_ids,
                position_ids: &Tensor::arange(length, (Kind::Int64, tch::Device::Cpu)).unsqueeze(0),
                prompt_ids: &zeros,
                sequence_ids: &(&zeros - 1),
                lambda: lambda.as_ref(),
            })?;
            let logits = tch::no_grad(|| hidden.f_linear(self.model.lm_head(), None::<Tensor>))?.to_kind(Kind::Float);
            let logits = logits.squeeze_dim(0); // [T, V]
            let log_probs = logits.log_softmax(-1, Kind::Double);
            let at = |position: i64, id: i64, k: usize| {
                let (values, ids) = log_probs.get(position).topk(k as i64, 0, true, true);
                let (values, ids): (Vec<f64>, Vec<i64>) =
                    (Vec::try_from(values).unwrap_or_default(), Vec::try_from(ids).unwrap_or_default());
                TokenLogProbs {
                    log_prob: log_probs.double_value(&[position, id]),
                    top: ids.into_iter().zip(values).collect(),
                }
            };
            let k = row.request.top_log_probs.unwrap_or(0);
            if row.tokens.is_empty() && row.request.prompt_log_probs {
                let prompt = (1..length).map(|next| Some(at(next - 1, ids[next as usize], k)));
                events.push((row.id, Event::Prompt(std::iter::once(None).chain(prompt).collect())));
            }
            if row.tokens.len() >= row.request.options.max_new_tokens {
                events.push((row.id, Event::End(Ending::Length)));
                continue;
            }
            let options = &row.request.options;
            let last = logits.narrow(0, length - 1, 1);
            let id = match next_tokens(&last, options)?.remove(0) {
                Next::Token(id) => id,
                Next::Logits(logits) => sample(&logits, options.temperature, options.top_p, row.random.unit()),
            };
            if options.eos_token_ids.contains(&id) {
                events.push((row.id, Event::End(Ending::Stop)));
                continue;
            }
            let log_probs = row.request.top_log_probs.map(|k| at(length - 1, id, k));
            events.push((row.id, Event::Token(Token { id, log_probs })));
            row.tokens.push(id);
            if row.tokens.len() >= options.max_new_tokens {
                events.push((row.id, Event::End(Ending::Length)));
            } else {
                self.running.push(row);
            }
        }
        Ok(events)
    }
}
