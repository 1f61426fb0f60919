//! What a request asks for, with everything decided.

use crate::serve::error::ApiError;
use crate::serve::state::App;

use super::parameters::Parameters;

/// The texts that a request asks for.
pub(in crate::serve) struct Plan {
    /// Which of the two objects answers it.
    pub(in crate::serve) kind: Kind,
    /// The model's name as the request gave it, which comes back in the answer.
    pub(in crate::serve) model: String,
    /// λ, `[M]`; None without a λ-adapter.
    pub(in crate::serve) lambda: Option<Vec<f64>>,
    /// Prompts, each with the texts' greatest length.
    pub(in crate::serve) prompts: Vec<Prompt>,
    /// Number of most probable tokens to list at each token; None lists none.
    pub(in crate::serve) num_top: Option<usize>,
    /// Whether each text begins with its prompt.
    pub(in crate::serve) echo: bool,
    /// Sampling, stop strings, streaming.
    pub(in crate::serve) parameters: Parameters,
}

/// The objects that answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Kind {
    /// `chat.completion`
    Chat,
    /// `text_completion`
    Completion,
}

/// A prompt.
pub(in crate::serve) struct Prompt {
    /// Its token ids.
    pub(in crate::serve) ids: Vec<i64>,
    /// Its text, if it is to be repeated.
    pub(in crate::serve) text: String,
    /// Tokens to generate, at most.
    pub(in crate::serve) max_new_tokens: usize,
}

impl Prompt {
    /// Checks that a prompt and its answer fit the context.
    ///
    /// `max_tokens` is what the request asks for, `default` what it gets if it does not ask: at most this, and no more than
    /// fits.
    ///
    /// # Errors
    ///
    /// Returns 400 if they do not fit.
    pub(super) fn fit(
        app: &App,
        param: &str,
        ids: Vec<i64>,
        max_tokens: Option<usize>,
        default: usize,
    ) -> Result<Self, ApiError> {
        let context = app.max_model_len;
        let room = context.saturating_sub(ids.len());
        if ids.len() > context || (room == 0 && max_tokens != Some(0)) {
            return Err(ApiError::context_length(
                param,
                format!(
                    "the prompt has {} tokens, but prompt and answer have at most {context} together: shorten the prompt",
                    ids.len()
                ),
            ));
        }
        if let Some(max_tokens) = max_tokens.filter(|&max_tokens| max_tokens > room) {
            return Err(ApiError::context_length(
                "max_tokens",
                format!(
                    "the prompt has {} tokens and the answer may have {max_tokens}, but together they have at most {context}: \
                     shorten the prompt, or ask for at most {room} tokens",
                    ids.len()
                ),
            ));
        }
        Ok(Self { ids, text: String::new(), max_new_tokens: max_tokens.unwrap_or(room.min(default)) })
    }
}
