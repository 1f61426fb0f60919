//! Lists of log-probs: a list of objects for chats, four parallel lists for completions.
//!
//! They list every token that was generated, an end token and those of a stop string included: then their number is the
//! usage's, and a client that cuts off the last token, as lm-eval does, cuts off the one that was generated.

use serde_json::{Map, Value, json};

use crate::generate::request::TokenLogProbs;
use crate::serve::job::ScoredToken;
use crate::serve::token_names::TokenNames;

/// What stands for the log-prob of a token that cannot occur: JSON has no infinity.
const LOWEST: f64 = -9999.0;

/// Returns `logprobs` of a chat.
pub(super) fn of_chat(tokens: &[ScoredToken], names: &TokenNames) -> Value {
    let entry = |id: i64, log_prob: f64| {
        let name = names.of(id);
        let mut entry = Map::new();
        entry.insert("token".into(), json!(name.text));
        entry.insert("logprob".into(), json!(log_prob.max(LOWEST)));
        entry.insert("bytes".into(), json!(name.bytes()));
        entry
    };
    let content = tokens.iter().map(|token| {
        let top: Vec<_> = token.log_probs.top.iter().map(|&(id, log_prob)| entry(id, log_prob)).collect();
        let mut entry = entry(token.id, token.log_probs.log_prob);
        entry.insert("top_logprobs".into(), json!(top));
        entry
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// The four lists of a completion's `logprobs`.
#[derive(Default)]
pub(super) struct CompletionLogProbs {
    tokens: Vec<String>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl CompletionLogProbs {
    /// Adds a token that begins after `offset` characters of the text; None for the first token of all, which nothing
    /// predicts.
    pub(super) fn push(&mut self, names: &TokenNames, id: i64, log_probs: Option<&TokenLogProbs>, offset: usize) {
        let name = names.of(id);
        let top = log_probs.map(|log_probs| {
            // The token itself comes too, as in OpenAI's API. Tokens of the same text share an entry: the most probable one's.
            let mut top = Map::new();
            for (id, log_prob) in log_probs.top.iter().copied().chain([(id, log_probs.log_prob)]) {
                top.entry(names.of(id).text.clone()).or_insert(json!(log_prob.max(LOWEST)));
            }
            top
        });
        self.tokens.push(name.text.clone());
        self.token_logprobs.push(json!(log_probs.map(|log_probs| log_probs.log_prob.max(LOWEST))));
        self.top_logprobs.push(json!(top));
        self.text_offset.push(offset);
    }

    /// Returns the object.
    pub(super) fn into_json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
