//! Reward models: Hugging Face's `…ForSequenceClassification` with one label.

use std::iter::repeat_n;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::libtorch::{Libtorch, upload};

use super::ModelError;
use super::config::ModelConfig;
use super::decoder::Decoder;
use super::families::Head;
use super::inputs::ModelInputs;
use super::json_fields::Fields;
use super::parameters::{self, SCORE};

/// A reward model: a decoder whose last hidden state a linear layer maps to one score.
#[derive(Debug)]
pub struct RewardModel {
    folder: PathBuf,
    decoder: Decoder,
    /// [1, H] float32.
    score: Tensor,
}

impl RewardModel {
    /// Loads a model folder in Hugging Face's format, of the families of [`Model`](super::Model).
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the model is of another architecture, is not a reward model, or has other than one
    /// label, and if a file is missing, is not valid, or does not match the configuration.
    pub fn load(folder: &Path, libtorch: Libtorch, kind: Kind) -> Result<RewardModel, ModelError> {
        let (config, device) = (ModelConfig::load_with(folder, Head::Score)?, libtorch.device());
        check_one_label(&Fields::new(&folder.join("config.json"), &config.source))?;
        tch::no_grad(|| {
            let parameters = parameters::load(folder, &config, Head::Score, device, kind.into())?;
            let score = parameters.get(SCORE)?.f_to_kind(Kind::Float)?;
            let decoder = Decoder::build(config, device, kind, &parameters)?;
            Ok(RewardModel { folder: folder.to_path_buf(), decoder, score })
        })
    }

    /// Returns the folder that the model was loaded from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// Scores texts, given as token ids, in one pass.
    ///
    /// A text's score is w · h, with h its hidden state after the final norm at the last token that is not
    /// `pad_token_id`; without a `pad_token_id`, at the last token. Transformers does the same in
    /// `GenericForSequenceClassification`: where the padding token also ends a turn, that end is skipped too.
    ///
    /// # Numerics
    ///
    /// The hidden states have the model's dtype. The score is computed in float32, so that a model in bfloat16 does not
    /// score different texts alike by rounding.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if a text has no tokens, an id is not in the vocabulary, or libtorch fails.
    pub fn scores(&self, texts: &[Vec<i64>]) -> Result<Vec<f64>, ModelError> {
        let Some(num_tokens) = texts.iter().map(Vec::len).max() else { return Ok(Vec::new()) };
        if let Some(text) = texts.iter().position(Vec::is_empty) {
            return Err(ModelError::Request(format!("text {text} has no tokens to score")));
        }
        let (mut input_ids, mut prompt_ids, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (row, text) in texts.iter().enumerate() {
            last.push((row * num_tokens + self.last_token(text)) as i64);
            let padding = num_tokens - text.len();
            // The padding is masked, so that its id changes nothing.
            input_ids.extend(text.iter().copied().chain(repeat_n(0, padding)));
            prompt_ids.extend(repeat_n(0, text.len()).chain(repeat_n(-1, padding)));
        }
        tch::no_grad(|| {
            let shape = [texts.len() as i64, num_tokens as i64];
            let rows = |values: &[i64]| Tensor::f_from_slice(values)?.f_view(shape);
            let positions = Tensor::f_arange(shape[1], (Kind::Int64, Device::Cpu))?.f_expand(shape, false)?;
            let inputs = ModelInputs {
                input_ids: &rows(&input_ids)?,
                position_ids: &positions,
                prompt_ids: &rows(&prompt_ids)?,
                sequence_ids: &Tensor::f_full(shape, -1, (Kind::Int64, Device::Cpu))?,
                lambda: None,
            };
            let hidden = self.decoder.hidden(inputs.input_ids, &self.decoder.context(&inputs)?)?; // [R, T, H]
            let last = upload(&Tensor::f_from_slice(&last)?, self.decoder.device)?;
            let hidden = hidden.f_view([-1, self.decoder.config.hidden_size])?.f_index_select(0, &last)?; // [R, H]
            let scores = hidden.f_to_kind(Kind::Float)?.f_matmul(&self.score.f_tr()?)?; // [R, 1]
            Ok(Vec::try_from(scores.f_view([-1])?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?)
        })
    }

    /// Returns the index of the token whose hidden state is scored.
    fn last_token(&self, text: &[i64]) -> usize {
        match self.decoder.config.pad_token_id {
            Some(padding) => text.iter().rposition(|&id| id != padding).unwrap_or(0),
            None => text.len().saturating_sub(1),
        }
    }
}

/// Checks that there is one label, by Transformers' rule: `id2label` lists them, or `num_labels` counts them, or there are 2.
fn check_one_label(fields: &Fields) -> Result<(), ModelError> {
    let (name, num_labels) = match fields.get_some("id2label").and_then(Value::as_object) {
        Some(labels) => ("id2label", labels.len() as i64),
        None if fields.get_some("num_labels").is_some() => ("num_labels", fields.size("num_labels")?),
        None => {
            return Err(fields.error(
                "it has neither `id2label` nor `num_labels`, which means 2 labels, but a reward model has one: set \
                 `num_labels` to 1 if that is what its `score.weight` has"
                    .into(),
            ));
        }
    };
    if num_labels == 1 {
        return Ok(());
    }
    Err(fields.error(format!(
        "`{name}` gives the model {num_labels} labels, but a reward model has one: score by a command that chooses among \
         them (--rater)"
    )))
}
