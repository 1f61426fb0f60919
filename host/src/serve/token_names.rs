//! Tokens as text, for lists of log-probs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::plugin::Tokenizer;

/// A token as lists of log-probs show it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenName {
    /// Its text, or `token_id:N` if it has none of its own.
    pub(super) text: String,
    /// Whether it is a part of a character, or nothing.
    is_text: bool,
}

impl TokenName {
    /// Returns the bytes of its text; None for a part of a character, whose bytes the tokenizer does not tell.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        self.is_text.then_some(self.text.as_bytes())
    }
}

/// Names of tokens, each found once.
pub(super) struct TokenNames {
    tokenizer: Arc<Tokenizer>,
    names: Mutex<HashMap<i64, Arc<TokenName>>>,
}

impl TokenNames {
    /// Names the tokens of a tokenizer.
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { tokenizer, names: Mutex::default() }
    }

    /// Returns the name of a token.
    pub(super) fn of(&self, id: i64) -> Arc<TokenName> {
        let names = || self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names().get(&id) {
            return Arc::clone(name);
        }
        let name = Arc::new(self.find(id));
        names().insert(id, Arc::clone(&name));
        name
    }

    fn find(&self, id: i64) -> TokenName {
        let decode = |ids: &[i64]| self.tokenizer.decode(ids, false).unwrap_or_default();
        // Decoders drop the space before the first word: the second of two tokens keeps it.
        let (one, two) = (decode(&[id]), decode(&[id, id]));
        let text = two.strip_prefix(&one).unwrap_or(&one);
        match text.is_empty() || text.contains('\u{fffd}') {
            true => TokenName { text: format!("token_id:{id}"), is_text: false },
            false => TokenName { text: text.to_owned(), is_text: true },
        }
    }
}
