//! A tokenised sample as JSON, for trainers that have their own tokenizer or store.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::ranks::{self, ranks};
use super::samples::{TokenizedResponse, TokenizedSample};
use crate::convert::{Rows, to_rows, to_targets};
use crate::{Error, Result};

/// The JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    /// Index of the record in its inputs, from 0.
    record: u64,
    /// Token ids of the prompt, the assistant's header included.
    prompt_ids: Vec<i64>,
    /// `[N]` lists of token ids, the end-of-turn token included.
    response_ids: Vec<Vec<i64>>,
    /// `[N]` index of each response in the record, counted before any were dropped.
    response_indices: Vec<usize>,
    /// `[M][N]`; null if masked. The rest of each row sums to 1.
    pi_target: Rows,
    /// `[M][N]` places, from 1 for the best; equal ones tie, and 0 is masked. Without them, the order is that of
    /// `pi_target`.
    #[serde(default)]
    ranks: Option<Vec<Vec<i64>>>,
}

impl TokenizedSample {
    /// Returns the sample as one line of JSON.
    ///
    /// # Errors
    ///
    /// Returns an error for a conversation, only some of whose tokens are targets.
    pub fn to_json(&self) -> Result<String> {
        let has_other_tokens = |response: &TokenizedResponse| response.is_target.is_some();
        if self.pi_target.is_empty() || self.responses.iter().any(has_other_tokens) {
            return Err(Error::InvalidArgument(format!(
                "record {} is a conversation: only prompts with rated responses can be written as tokens",
                self.record_index
            )));
        }
        let tokens = Tokens {
            record: self.record_index,
            prompt_ids: self.prompt.clone(),
            response_ids: self.responses.iter().map(|response| response.ids.clone()).collect(),
            response_indices: self.responses.iter().map(|response| response.response_index).collect(),
            pi_target: to_rows(&self.pi_target.mapv(f64::from)),
            ranks: Some(self.ranks.rows().into_iter().map(|row| row.to_vec()).collect()),
        };
        serde_json::to_string(&tokens)
            .map_err(|error| Error::InvalidData(format!("the tokens cannot be written: {error}")))
    }

    /// Parses a sample, which may come from another tokenizer.
    ///
    /// # Errors
    ///
    /// Returns an error if the JSON is invalid, a token id is negative, the shapes of the fields do not agree, or the
    /// ranks are no places of the responses that `pi_target` does not mask.
    pub fn from_json(json: &str) -> Result<Self> {
        let invalid = |problem: String| Error::InvalidData(format!("not a valid tokenised sample: {problem}"));
        let tokens: Tokens = serde_json::from_str(json).map_err(|error| invalid(error.to_string()))?;
        tokens.into_sample().map_err(invalid)
    }
}

impl Tokens {
    fn into_sample(self) -> std::result::Result<TokenizedSample, String> {
        let of_record = |problem: String| format!("record {}: {problem}", self.record);
        let n = self.response_ids.len();
        if self.response_indices.len() != n {
            let indices = self.response_indices.len();
            return Err(of_record(format!("`response_indices` has {indices} numbers for {n} responses")));
        }
        if let Some(id) = self.response_ids.iter().flatten().chain(&self.prompt_ids).find(|id| **id < 0) {
            return Err(of_record(format!("{id} is not a token id")));
        }
        let shape = (self.pi_target.len(), n);
        let pi_target = to_targets(self.pi_target, shape, |k| format!("`pi_target[{k}]`")).map_err(of_record)?;
        let ranks = match self.ranks {
            None => ranks(&pi_target, None),
            Some(rows) => to_ranks(rows, &pi_target).map_err(of_record)?,
        };
        let responses = self.response_indices.into_iter().zip(self.response_ids);
        Ok(TokenizedSample {
            record_index: self.record,
            prompt: self.prompt_ids,
            responses: responses
                .map(|(response_index, ids)| TokenizedResponse { response_index, ids, is_target: None })
                .collect(),
            pi_target: pi_target.mapv(|p| p as f32),
            ranks,
        })
    }
}

/// Checks a caller's ranks: they have the shape of `pi_target`, are 0 where it is masked, and else places without gaps.
fn to_ranks(rows: Vec<Vec<i64>>, pi_target: &Array2<f64>) -> std::result::Result<Array2<i64>, String> {
    let (m, n) = pi_target.dim();
    if rows.len() != m {
        return Err(format!("`ranks` has {} rows for {m} dimensions", rows.len()));
    }
    for (k, (row, targets)) in rows.iter().zip(pi_target.rows()).enumerate() {
        if row.len() != n {
            return Err(format!("`ranks[{k}]` has {} numbers for {n} responses", row.len()));
        }
        if let Some(i) = (0..n).find(|&i| (row[i] == 0) != targets[i].is_nan()) {
            return Err(match row[i] {
                0 => format!(
                    "`ranks[{k}][{i}]` is 0, but `pi_target[{k}][{i}]` is not null: only what is masked has no rank"
                ),
                rank => format!(
                    "`ranks[{k}][{i}]` is {rank}, but `pi_target[{k}][{i}]` is null: the rank of what is masked is 0"
                ),
            });
        }
        let places = row.iter().copied().filter(|rank| *rank != 0);
        if let Some(missing) = ranks::missing_place(places) {
            return Err(format!(
                "`ranks[{k}]` has no {missing}: places are numbered from 1 without gaps, and equal ones tie"
            ));
        }
    }
    Array2::from_shape_vec((m, n), rows.into_iter().flatten().collect()).map_err(|error| error.to_string())
}
