//! `/v1/completions`: text or token ids in, `text_completion` out.

use serde_json::{Value, json};

use crate::generate::text::TextStream;
use crate::plugin::PluginError;
use crate::serve::error::ApiError;
use crate::serve::state::App;

use super::fields::{Fields, shown};
use super::log_probs::CompletionLogProbs;
use super::parameters::Parameters;
use super::plan::{Kind, Plan, Prompt};
use super::result::Generated;

/// Tokens of an answer if a request does not say, as in OpenAI's API.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most probable tokens that may be listed, as in OpenAI's API.
const MOST_TOP: usize = 5;

/// A prompt as it was sent.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Text(String),
    Ids(Vec<i64>),
}

/// A completion whose fields are read, and whose prompts are not tokenised yet.
pub(in crate::serve) struct CompletionRequest {
    model: String,
    lambda: Option<Vec<f64>>,
    prompts: Vec<Source>,
    num_top: Option<usize>,
    echo: bool,
    parameters: Parameters,
}

impl CompletionRequest {
    /// Reads the fields.
    ///
    /// # Errors
    ///
    /// Returns 400 or 404 that names the field.
    pub(in crate::serve) fn read(app: &App, body: &Value) -> Result<Self, ApiError> {
        let fields = Fields::of(body)?;
        let model = fields.text("model")?.unwrap_or(app.catalogue.name()).to_owned();
        let lambda = app.catalogue.lambda(&model, fields.get("lambda"))?;
        let echo = fields.flag("echo")?.unwrap_or(false);
        // No token at all is an answer only if the prompt is repeated.
        let parameters = Parameters::read(fields, usize::from(!echo))?;
        if let Some(best_of) =
            fields.size("best_of", 1, usize::MAX)?.filter(|&best_of| best_of != parameters.num_choices)
        {
            let message = format!(
                "`best_of` is {best_of}, but choosing among more answers than `n` is not supported: leave it out"
            );
            return Err(ApiError::unsupported("best_of", message));
        }
        let num_top = fields.size("logprobs", 0, MOST_TOP)?;
        Ok(Self { model, lambda, prompts: prompts(fields)?, num_top, echo, parameters })
    }

    /// Returns the number of texts that it asks for.
    pub(in crate::serve) fn num_texts(&self) -> usize {
        self.prompts.len().saturating_mul(self.parameters.num_choices)
    }

    /// Makes the prompts.
    ///
    /// # Errors
    ///
    /// Returns 400 if a prompt is empty, has an id that the model does not know, or does not fit the context.
    pub(in crate::serve) fn plan(self, app: &App) -> Result<Plan, ApiError> {
        let (echo, max_tokens) = (self.echo, self.parameters.max_tokens);
        let prompts = self.prompts.into_iter().map(|source| {
            let (ids, text) = source.tokens(app, echo)?;
            let prompt = Prompt::fit(app, "prompt", ids, max_tokens, DEFAULT_MAX_TOKENS)?;
            Ok(Prompt { text, ..prompt })
        });
        Ok(Plan {
            kind: Kind::Completion,
            model: self.model,
            lambda: self.lambda,
            prompts: prompts.collect::<Result<_, ApiError>>()?,
            num_top: self.num_top,
            echo,
            parameters: self.parameters,
        })
    }
}

impl Source {
    /// Returns the token ids, and the text if it is to be repeated.
    fn tokens(self, app: &App, echo: bool) -> Result<(Vec<i64>, String), ApiError> {
        let refused = |error: PluginError| ApiError::field("prompt", error.to_string());
        let (ids, text) = match self {
            // As `generate --raw` does.
            Self::Text(text) => {
                let mut ids: Vec<i64> = app.bos_token_id.into_iter().collect();
                ids.extend(app.tokenizer.encode(&text).map_err(refused)?);
                (ids, text)
            }
            Self::Ids(ids) => {
                if let Some(id) = ids.iter().find(|&&id| !(0..app.vocab_size).contains(&id)) {
                    let message =
                        format!("`prompt` has the token id {id}, but the model knows 0 to {}", app.vocab_size - 1);
                    return Err(ApiError::field("prompt", message));
                }
                let text = if echo { app.tokenizer.decode(&ids, true).map_err(refused)? } else { String::new() };
                (ids, text)
            }
        };
        if ids.is_empty() {
            let message =
                "`prompt` is empty, and the tokenizer has no BOS token to begin with: give at least one token";
            return Err(ApiError::field("prompt", message));
        }
        Ok((ids, text))
    }
}

fn prompts(fields: Fields) -> Result<Vec<Source>, ApiError> {
    let Some(value) = fields.get("prompt") else {
        return Err(ApiError::field("prompt", "`prompt` is missing: send text or token ids, or a list of either"));
    };
    sources(value).filter(|prompts| !prompts.is_empty()).ok_or_else(|| {
        let message = format!(
            "`prompt` must be a string, a list of token ids, or a list of either, none of them empty, not {}",
            shown(value)
        );
        ApiError::field("prompt", message)
    })
}

fn sources(value: &Value) -> Option<Vec<Source>> {
    let ids = |list: &[Value]| -> Option<Source> {
        let ids: Vec<i64> = list.iter().map(Value::as_i64).collect::<Option<_>>()?;
        (!ids.is_empty()).then_some(Source::Ids(ids))
    };
    match value {
        Value::String(text) => Some(vec![Source::Text(text.clone())]),
        Value::Array(list) if list.first().is_some_and(Value::is_number) => Some(vec![ids(list)?]),
        Value::Array(list) => {
            let prompt = |value: &Value| match value {
                Value::String(text) => Some(Source::Text(text.clone())),
                Value::Array(list) => ids(list),
                _ => None,
            };
            list.iter().map(prompt).collect()
        }
        _ => None,
    }
}

/// Where a completion is in its text, over all of its parts.
#[derive(Clone, Debug, Default)]
pub(in crate::serve) struct Position {
    /// Characters of the prompt that come before the generated text.
    num_prompt_chars: usize,
    has_begun: bool,
}

/// Returns the choice with the next part of a text, which may be all of it.
///
/// # Errors
///
/// Returns 500 if the prompt cannot be decoded.
pub(in crate::serve) fn choice(
    app: &App,
    index: usize,
    plan: &Plan,
    generated: &Generated,
    position: &mut Position,
) -> Result<Value, ApiError> {
    let prompt = &plan.prompts[index / plan.parameters.num_choices];
    let mut log_probs = CompletionLogProbs::default();
    let mut text = String::new();
    if plan.echo && !position.has_begun {
        text.push_str(&prompt.text);
        position.num_prompt_chars = prompt.text.chars().count();
        if let Some(listed) = &generated.prompt {
            let offsets = offsets(app, &prompt.ids).map_err(|error| ApiError::internal(error.to_string()))?;
            for ((&id, log_probs_at), offset) in prompt.ids.iter().zip(listed).zip(offsets) {
                log_probs.push(&app.token_names, id, log_probs_at.as_ref(), offset.min(position.num_prompt_chars));
            }
        }
    }
    position.has_begun = true;
    text.push_str(&generated.text);
    for token in &generated.tokens {
        log_probs.push(&app.token_names, token.id, Some(&token.log_probs), position.num_prompt_chars + token.offset);
    }
    Ok(json!({
        "index": index,
        "text": text,
        "logprobs": plan.num_top.map(|_| log_probs.into_json()),
        "finish_reason": generated.finish_word(),
    }))
}

/// Returns the number of characters before each token of a prompt.
fn offsets(app: &App, ids: &[i64]) -> Result<Vec<usize>, PluginError> {
    let mut text = TextStream::new(&app.tokenizer);
    let mut num_chars = 0;
    let mut offsets = Vec::with_capacity(ids.len());
    for &id in ids {
        offsets.push(num_chars);
        num_chars += text.push(id)?.chars().count();
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn prompts_are_text_or_ids_one_or_many() {
        let text = |text: &str| Source::Text(text.to_owned());
        assert_eq!(sources(&json!("a")).unwrap(), [text("a")]);
        assert_eq!(sources(&json!(["a", "b"])).unwrap(), [text("a"), text("b")]);
        assert_eq!(sources(&json!([1, 2])).unwrap(), [Source::Ids(vec![1, 2])]);
        assert_eq!(sources(&json!([[1], [2, 3]])).unwrap(), [Source::Ids(vec![1]), Source::Ids(vec![2, 3])]);
        for wrong in
            [json!(1), json!([1, "a"]), json!([1.5]), json!([[1.5]]), json!([[]]), json!({ "a": 1 }), json!([true])]
        {
            assert_eq!(sources(&wrong), None, "{wrong}");
        }
        assert_eq!(sources(&json!([])).unwrap(), []);
    }
}
