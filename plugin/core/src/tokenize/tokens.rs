//! A tokenised sample as JSON, for trainers that have their own tokenizer or store.

use serde::{Deserialize, Serialize};

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
        };
        serde_json::to_string(&tokens)
            .map_err(|error| Error::InvalidData(format!("the tokens cannot be written: {error}")))
    }

    /// Parses a sample, which may come from another tokenizer.
    ///
    /// # Errors
    ///
    /// Returns an error if the JSON is invalid, a token id is negative, or the shapes of the fields do not agree.
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
        let responses = self.response_indices.into_iter().zip(self.response_ids);
        Ok(TokenizedSample {
            record_index: self.record,
            prompt: self.prompt_ids,
            responses: responses
                .map(|(response_index, ids)| TokenizedResponse { response_index, ids, is_target: None })
                .collect(),
            pi_target: pi_target.mapv(|p| p as f32),
        })
    }
}
