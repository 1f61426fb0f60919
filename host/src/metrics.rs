//! Metrics of an optimiser step or an evaluation, accumulated over its batches.

use serde_json::{Map, Value};
use tch::{Device, Kind, TchError, Tensor};

use crate::plugin::{Batch, LossOutputs, PreferenceOutputs, Reduction};

/// Name of the mean over responses of s − s^ref, with s a sum of token log-probs. It is no divergence: it is measured on given
/// responses and may be negative.
pub const LOG_RATIO: &str = "logps/ratio";

/// What [`LOG_RATIO`] was called before version 0.1.0, when it was taken for a divergence.
const OLD_LOG_RATIO: &str = "kl";

/// One line of `metrics.jsonl`.
pub type Row = Map<String, Value>;

/// Returns what the metric `key` of a row is called now.
pub fn present_name(key: &str) -> String {
    match key.strip_suffix(OLD_LOG_RATIO) {
        Some(prefix @ ("" | "eval_")) => format!("{prefix}{LOG_RATIO}"),
        _ => key.to_owned(),
    }
}

/// How to compute metrics from the loss's outputs.
#[derive(Clone, Copy, Debug)]
pub struct MetricOptions {
    /// β; rewards divided by it are log-ratios.
    pub beta: f64,
    /// With `Mean`, log-ratios are multiplied by the responses' lengths to be sums over tokens.
    pub reduction: Reduction,
    /// Whether there is a reference; without one, s^ref is 0 and the row has no `logps/ratio`.
    pub has_reference: bool,
}

/// Sums over the micro-batches of a step or an evaluation, from which [`write`](Totals::write) computes means.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Sum of the losses, each already divided by the step's normaliser.
    pub loss: f64,
    num_prompts: f64,
    accuracy: f64,
    margin: f64,
    /// Of the best responses under λ′; None unless the loss has it.
    sft_loss: Option<f64>,
    num_responses: f64,
    log_ratio: f64,
    dimensions: Vec<DimensionTotals>,
}

#[derive(Clone, Debug, Default)]
struct DimensionTotals {
    count: f64,
    loss: f64,
    accuracy: f64,
}

impl Totals {
    /// Adds a micro-batch.
    ///
    /// # Errors
    ///
    /// Errors from libtorch.
    pub fn add(
        &mut self,
        outputs: &LossOutputs,
        batch: &Batch,
        metric_options: &MetricOptions,
    ) -> Result<(), TchError> {
        self.loss += outputs.loss.f_double_value(&[])?;
        match &outputs.preferences {
            Some(preferences) => self.add_preferences(preferences, batch, metric_options),
            None => Ok(()),
        }
    }

    fn add_preferences(
        &mut self,
        outputs: &PreferenceOutputs,
        batch: &Batch,
        metric_options: &MetricOptions,
    ) -> Result<(), TchError> {
        let lambda = rows(&batch.lambda)?; // [B, M]
        let accuracies = values(&outputs.accuracies)?;
        let margins = values(&outputs.margins)?;
        let sft_losses = outputs.sft_losses.as_ref().map(values).transpose()?;
        for (prompt, lambda) in lambda.iter().enumerate() {
            if lambda.iter().any(|weight| *weight > 0.0) {
                self.num_prompts += 1.0;
                self.accuracy += accuracies[prompt];
                self.margin += margins[prompt];
                if let Some(losses) = &sft_losses {
                    *self.sft_loss.get_or_insert(0.0) += losses[prompt];
                }
            }
        }

        let lengths = values(&batch.sequence_num_tokens)?;
        for (reward, length) in values(&outputs.rewards)?.iter().zip(lengths) {
            let tokens = if metric_options.reduction == Reduction::Mean { length } else { 1.0 };
            self.log_ratio += reward / metric_options.beta * tokens;
            self.num_responses += 1.0;
        }

        let losses = rows(&outputs.dimension_losses)?;
        let counts = rows(&outputs.dimension_mask)?;
        let accuracies = rows(&outputs.dimension_accuracies)?;
        self.dimensions.resize_with(lambda.first().map_or(0, Vec::len), DimensionTotals::default);
        for (dimension, totals) in self.dimensions.iter_mut().enumerate() {
            for prompt in (0..lambda.len()).filter(|prompt| counts[*prompt][dimension] > 0.0) {
                totals.count += 1.0;
                totals.loss += losses[prompt][dimension];
                totals.accuracy += accuracies[prompt][dimension];
            }
        }
        Ok(())
    }

    /// Writes the means into `row`, with `prefix` before each key. Metrics that are undefined are left out.
    pub fn write(&self, row: &mut Row, prefix: &str, dimensions: &[String], metric_options: &MetricOptions) {
        let mut put = |key: String, value: f64| row.insert(format!("{prefix}{key}"), value.into());
        put("loss".into(), self.loss);
        for (name, totals) in dimensions.iter().zip(&self.dimensions).filter(|(_, totals)| totals.count > 0.0) {
            put(format!("loss/{name}"), totals.loss / totals.count);
        }
        if self.num_prompts > 0.0 {
            put("rewards/accuracies".into(), self.accuracy / self.num_prompts);
            if !prefix.is_empty() {
                for (name, totals) in dimensions.iter().zip(&self.dimensions).filter(|(_, totals)| totals.count > 0.0) {
                    put(format!("rewards/accuracies/{name}"), totals.accuracy / totals.count);
                }
            }
            put("rewards/margins".into(), self.margin / self.num_prompts);
            if let Some(sft_loss) = self.sft_loss {
                put("nll_loss".into(), sft_loss / self.num_prompts);
            }
        }
        if metric_options.has_reference && self.num_responses > 0.0 {
            put(LOG_RATIO.into(), self.log_ratio / self.num_responses);
        }
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_reshape([-1])?)
}

fn rows(tensor: &Tensor) -> Result<Vec<Vec<f64>>, TchError> {
    Vec::try_from(tensor.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)
}
