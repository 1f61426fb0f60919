//! Generates texts together: each joins after its prefill and leaves when it ends (continuous batching).

use std::collections::VecDeque;

use indexmap::IndexMap;
use tch::{Kind, Tensor};

use crate::model::random::Random;
use crate::model::{KvCache, Model, ModelError, RowKey};

use super::log_probs::token_log_probs;
use super::options::{GenerateOptions, check};
use super::request::{Ending, Event, Request, RowId, Token, TokenLogProbs};
use super::sampler::{Choice, choose};

/// Most prompt tokens of one pass, padding included. Longer prompts take several, between which other texts go on.
const PREFILL_TOKENS: usize = 1024;

/// Positions whose logits exist at a time for the log-probs of a prompt.
const LOGITS_POSITIONS: i64 = 64;

/// Texts in generation.
pub struct Engine<'m> {
    model: &'m Model,
    cache: KvCache,
    max_batch_size: usize,
    next_id: u64,
    waiting: VecDeque<Row>,
    /// A text whose prompt is too long for one pass.
    prefilling: Option<Prefill>,
    running: IndexMap<RowKey, Row>,
}

/// A text.
struct Row {
    id: RowId,
    request: Request,
    random: Random,
    num_generated: usize,
    last: i64,
}

/// A text whose prompt is in the cache in part.
struct Prefill {
    row: Row,
    key: RowKey,
    log_probs: Vec<Option<TokenLogProbs>>,
}

impl<'m> Engine<'m> {
    /// Creates an engine that generates up to `max_batch_size` texts at once.
    #[must_use]
    pub fn new(model: &'m Model, max_batch_size: usize) -> Self {
        Self {
            model,
            cache: model.kv_cache(),
            max_batch_size: max_batch_size.max(1),
            next_id: 0,
            waiting: VecDeque::new(),
            prefilling: None,
            running: IndexMap::new(),
        }
    }

    /// Adds a text, which begins in one of the next steps. It ends at the latest when it has as many tokens, with its prompt,
    /// as the model was made for.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the prompt is empty, leaves no room for an answer or has ids outside the model's
    /// vocabulary, an option is out of range, or λ does not belong to the model's adapter.
    pub fn add(&mut self, mut request: Request) -> Result<RowId, ModelError> {
        check(&request.options)?;
        self.model.check_ids(&request.prompt)?;
        if request.prompt.is_empty() {
            return Err(ModelError::Request(
                "there is no token to continue from; give a prompt, or a tokenizer with a BOS token".into(),
            ));
        }
        let context = usize::try_from(self.model.config().max_position_embeddings).unwrap_or(0);
        let room =
            context.checked_sub(request.prompt.len()).filter(|&room| room > 0 || request.options.max_new_tokens == 0);
        let Some(room) = room else {
            return Err(ModelError::Request(format!(
                "the prompt has {} tokens, but prompt and answer have at most {context} together, which config.json has as \
                 max_position_embeddings: shorten the prompt",
                request.prompt.len()
            )));
        };
        request.options.max_new_tokens = request.options.max_new_tokens.min(room);
        match &request.lambda {
            Some(lambda) => self.model.check_lambda(lambda)?,
            None => request.lambda = self.model.default_lambda()?,
        }
        let id = RowId(self.next_id);
        self.next_id += 1;
        let random = Random::new(request.options.seed, request.stream);
        self.waiting.push_back(Row { id, request, random, num_generated: 0, last: 0 });
        Ok(id)
    }

    /// Drops a text, in whatever state it is.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Torch`] if libtorch fails.
    pub fn remove(&mut self, id: RowId) -> Result<(), ModelError> {
        self.waiting.retain(|row| row.id != id);
        if let Some(prefill) = self.prefilling.take_if(|prefill| prefill.row.id == id) {
            self.cache.remove(prefill.key)?;
        }
        let key = self.running.iter().find(|(_, row)| row.id == id).map(|(key, _)| *key);
        key.map_or(Ok(()), |key| self.retire(key))
    }

    /// Returns the number of texts that are being generated.
    #[must_use]
    pub fn num_running(&self) -> usize {
        self.running.len() + usize::from(self.prefilling.is_some())
    }

    /// Returns the number of texts that have not begun.
    #[must_use]
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether there is nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.num_running() == 0 && self.waiting.is_empty()
    }

    /// Returns the size of the key-value cache in bytes.
    #[must_use]
    pub fn num_cache_bytes(&self) -> usize {
        self.cache.num_bytes()
    }

    /// Generates the next token of each running text, then lets waiting texts begin, whose first token comes with it.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if libtorch fails; the texts are then lost.
    pub fn step(&mut self) -> Result<Vec<(RowId, Event)>, ModelError> {
        let mut events = Vec::new();
        self.decode(&mut events)?;
        if let Some(prefill) = self.prefilling.take() {
            self.continue_prefill(prefill, &mut events)?;
        } else {
            self.prefill(&mut events)?;
        }
        Ok(events)
    }

    fn decode(&mut self, events: &mut Vec<(RowId, Event)>) -> Result<(), ModelError> {
        if self.running.is_empty() {
            return Ok(());
        }
        let room: Vec<(RowKey, i64)> = self.running.keys().map(|key| (*key, 1)).collect();
        self.cache.reserve(&room)?;
        let keys: Vec<RowKey> = self.cache.rows().filter(|key| self.running.contains_key(key)).collect();
        let last: Vec<[i64; 1]> = keys.iter().map(|key| [self.running[key].last]).collect();
        let rows: Vec<(RowKey, &[i64])> = keys.iter().copied().zip(last.iter().map(<[i64; 1]>::as_slice)).collect();
        let lambda = lambda_of(keys.iter().map(|key| &self.running[key]))?;
        let hidden = self.model.extend_to_last(&mut self.cache, &rows, lambda.as_ref())?;
        self.advance(&keys, &hidden, events)
    }

    /// Lets texts with short prompts begin together, or one with a long prompt.
    fn prefill(&mut self, events: &mut Vec<(RowId, Event)>) -> Result<(), ModelError> {
        let mut group: Vec<Row> = Vec::new();
        let mut longest = 0;
        while group.len() + self.running.len() < self.max_batch_size {
            let Some(length) = self.waiting.front().map(|row| row.request.prompt.len()) else { break };
            if !group.is_empty() && longest.max(length) * (group.len() + 1) > PREFILL_TOKENS {
                break;
            }
            longest = longest.max(length);
            group.extend(self.waiting.pop_front());
            if length > PREFILL_TOKENS {
                break;
            }
        }
        if let Some(row) = group.pop_if(|_| longest > PREFILL_TOKENS) {
            let key = self.cache.insert();
            return self.continue_prefill(Prefill { row, key, log_probs: Vec::new() }, events);
        }
        self.begin_together(group, events)
    }

    /// Computes the prompts of texts in one pass, each prompt at a λ once.
    fn begin_together(&mut self, group: Vec<Row>, events: &mut Vec<(RowId, Event)>) -> Result<(), ModelError> {
        let mut first_of: Vec<usize> = Vec::new();
        let mut distinct: Vec<usize> = Vec::new();
        for (index, row) in group.iter().enumerate() {
            let same = |other: &usize| {
                let other = &group[*other].request;
                other.prompt == row.request.prompt && other.lambda == row.request.lambda
            };
            let first = distinct.iter().position(same);
            first_of.push(first.unwrap_or(distinct.len()));
            if first.is_none() {
                distinct.push(index);
            }
        }
        if distinct.is_empty() {
            return Ok(());
        }
        let rows: Vec<(RowKey, &[i64])> =
            distinct.iter().map(|&index| (self.cache.insert(), group[index].request.prompt.as_slice())).collect();
        let lambda = lambda_of(distinct.iter().map(|&index| &group[index]))?;
        let hidden = if group.iter().any(|row| row.request.prompt_log_probs) {
            let all = self.model.extend(&mut self.cache, &rows, lambda.as_ref())?; // [R, T, H]
            for (row, &distinct) in group.iter().zip(&first_of).filter(|(row, _)| row.request.prompt_log_probs) {
                let mut log_probs = vec![None];
                self.prompt_log_probs(&all.f_get(distinct as i64)?, &row.request, 1, &mut log_probs)?;
                events.push((row.id, Event::Prompt(log_probs)));
            }
            let last = (0..).zip(&rows).map(|(row, (_, prompt))| all.f_get(row)?.f_get(prompt.len() as i64 - 1));
            Tensor::f_stack(&last.collect::<Result<Vec<_>, _>>()?, 0)?
        } else {
            self.model.extend_to_last(&mut self.cache, &rows, lambda.as_ref())?
        }; // [distinct, H]
        let mut keys: Vec<RowKey> = rows.iter().map(|(key, _)| *key).collect();
        let mut sources: Vec<i64> = (0..keys.len() as i64).collect();
        drop(rows);
        for (index, row) in group.into_iter().enumerate() {
            let key = if distinct[first_of[index]] == index {
                keys[first_of[index]]
            } else {
                let copy = self.cache.fork(keys[first_of[index]])?;
                keys.push(copy);
                sources.push(first_of[index] as i64);
                copy
            };
            self.running.insert(key, row);
        }
        let hidden = hidden.f_index_select(0, &Tensor::f_from_slice(&sources)?.f_to_device(hidden.device())?)?;
        self.advance(&keys, &hidden, events)
    }

    /// Computes the next part of a long prompt.
    fn continue_prefill(&mut self, mut prefill: Prefill, events: &mut Vec<(RowId, Event)>) -> Result<(), ModelError> {
        let Prefill { row, key, log_probs } = &mut prefill;
        let prompt = &row.request.prompt;
        let start = self.cache.length(*key)? as usize;
        let end = prompt.len().min(start + PREFILL_TOKENS);
        let lambda = lambda_of(std::iter::once(&*row))?;
        let part = [(*key, &prompt[start..end])];
        let hidden = if row.request.prompt_log_probs {
            let all = self.model.extend(&mut self.cache, &part, lambda.as_ref())?.f_squeeze_dim(0)?; // [T, H]
            if log_probs.is_empty() {
                log_probs.push(None);
            }
            self.prompt_log_probs(&all, &row.request, start + 1, log_probs)?;
            all.f_narrow(0, (end - start) as i64 - 1, 1)?
        } else {
            self.model.extend_to_last(&mut self.cache, &part, lambda.as_ref())?
        }; // [1, H]
        if end < prompt.len() {
            self.prefilling = Some(prefill);
            return Ok(());
        }
        let Prefill { row, key, log_probs } = prefill;
        if row.request.prompt_log_probs {
            events.push((row.id, Event::Prompt(log_probs)));
        }
        self.running.insert(key, row);
        self.advance(&[key], &hidden, events)
    }

    /// Adds the log-probs of the prompt's tokens from number `next` on, which hidden states [T, H] predict.
    fn prompt_log_probs(
        &self,
        hidden: &Tensor,
        request: &Request,
        next: usize,
        log_probs: &mut Vec<Option<TokenLogProbs>>,
    ) -> Result<(), ModelError> {
        let num_top = request.top_log_probs.unwrap_or(0);
        let end = request.prompt.len().min(next + hidden.size2()?.0 as usize);
        let predicted = &request.prompt[next..end];
        for (part, ids) in (0..).zip(predicted.chunks(LOGITS_POSITIONS as usize)) {
            let logits = self.logits(&hidden.f_narrow(0, part * LOGITS_POSITIONS, ids.len() as i64)?)?;
            log_probs.extend(token_log_probs(&logits, ids, num_top)?.into_iter().map(Some));
        }
        Ok(())
    }

    /// Chooses the next token of rows from their hidden states, [R, H].
    fn advance(
        &mut self,
        keys: &[RowKey],
        hidden: &Tensor,
        events: &mut Vec<(RowId, Event)>,
    ) -> Result<(), ModelError> {
        let mut choices = Vec::new();
        for key in keys {
            let row = &mut self.running[key];
            let options = &row.request.options;
            choices.push(if options.temperature == 0.0 {
                Choice::Greedy
            } else {
                let (temperature, top_p) = (options.temperature, options.top_p);
                Choice::Sample { temperature, top_p, uniform: row.random.unit() }
            });
        }
        let logits = self.logits(hidden)?;
        let tokens = choose(&logits, &choices)?;
        let mut log_probs = self.chosen_log_probs(keys, &logits, &tokens)?;
        for (index, (key, token)) in keys.iter().zip(tokens).enumerate() {
            let row = &mut self.running[key];
            let GenerateOptions { max_new_tokens, eos_token_ids, .. } = &row.request.options;
            let ending = match token {
                _ if row.num_generated >= *max_new_tokens => Some(Ending::Length),
                None => Some(Ending::Failed(
                    "the model's logits are not finite numbers, so there is no next token; check the weights of the model \
                     and its adapter"
                        .into(),
                )),
                Some(id) if eos_token_ids.contains(&id) => Some(Ending::Stop(id)),
                Some(id) => {
                    row.last = id;
                    row.num_generated += 1;
                    events.push((row.id, Event::Token(Token { id, log_probs: log_probs[index].take() })));
                    (row.num_generated == *max_new_tokens).then_some(Ending::Length)
                }
            };
            if let Some(ending) = ending {
                events.push((row.id, Event::End(ending)));
                self.retire(*key)?;
            }
        }
        Ok(())
    }

    /// Returns the log-probs of the chosen tokens, for the rows that want them.
    fn chosen_log_probs(
        &self,
        keys: &[RowKey],
        logits: &Tensor,
        tokens: &[Option<i64>],
    ) -> Result<Vec<Option<TokenLogProbs>>, ModelError> {
        let mut log_probs: Vec<Option<TokenLogProbs>> = vec![None; keys.len()];
        let (mut rows, mut ids, mut num_top) = (Vec::new(), Vec::new(), 0);
        for (row, (key, token)) in (0..).zip(keys.iter().zip(tokens)) {
            if let (Some(num), Some(id)) = (self.running[key].request.top_log_probs, token) {
                rows.push(row);
                ids.push(*id);
                num_top = num.max(num_top);
            }
        }
        if rows.is_empty() {
            return Ok(log_probs);
        }
        let own = logits.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(logits.device())?)?;
        for (&row, mut found) in rows.iter().zip(token_log_probs(&own, &ids, num_top)?) {
            let row = row as usize;
            found.top.truncate(self.running[&keys[row]].request.top_log_probs.unwrap_or(0));
            log_probs[row] = Some(found);
        }
        Ok(log_probs)
    }

    /// Computes logits, [R, V] float32, of hidden states [R, H].
    fn logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let logits = tch::no_grad(|| hidden.f_linear(self.model.lm_head(), None::<Tensor>))?;
        Ok(logits.f_to_kind(Kind::Float)?)
    }

    fn retire(&mut self, key: RowKey) -> Result<(), ModelError> {
        self.running.swap_remove(&key);
        self.cache.remove(key)
    }
}

/// Returns the λ of rows, [R, M] float64; None if the model has no λ.
fn lambda_of<'r>(rows: impl Iterator<Item = &'r Row>) -> Result<Option<Tensor>, ModelError> {
    let weights: Vec<&[f64]> = rows.filter_map(|row| row.request.lambda.as_deref()).collect();
    if weights.is_empty() {
        return Ok(None);
    }
    Ok(Some(Tensor::f_from_slice(&weights.concat())?.f_view([weights.len() as i64, -1])?))
}
