//! Held-out records: measures a policy on their rated responses, and provides prompts to answer.

use std::ops::ControlFlow;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::batch_inputs::{log_probs, loss_inputs, uniform_lambda};
use super::batches_by_length::{SCORED_TOKENS, batches_by_length};
use super::collation::Collation;
use crate::console::{Progress, say};
use crate::files::cache_folder::CacheFolder;
use crate::files::record_files::RecordFiles;
use crate::metrics::{MetricOptions, Row, Totals};
use crate::model::Model;
use crate::plugin::{
    Batch, CollateOptions, ConvertOptions, Dataset, DatasetOptions, Format, Layout, LossOptions, Message, Plugin,
    PluginError, TokenizeOptions, Tokenizer,
};

/// Rated records, tokenised.
pub struct HeldOut {
    dataset: Dataset,
    /// Ratings `[M][N]` of each record; None if missing.
    ratings: Vec<Vec<Vec<Option<f64>>>>,
    prompts: Vec<Vec<Message>>,
    collation: Collation,
}

/// The fields of a converted sample that are read here.
#[derive(Deserialize)]
struct Sample {
    prompt: Prompt,
    tools: Option<Value>,
    record: u64,
    dimensions: Vec<String>,
    ratings: Option<Vec<Vec<Option<f64>>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

impl HeldOut {
    /// Reads and tokenises record files for a model, in the dimensions of its adapter, or in all that the records have.
    /// Reports a text that is longer than the model was made for.
    ///
    /// # Errors
    ///
    /// Returns an error if a record does not parse, or if the records are not rated in a dimension of the adapter.
    pub fn open(
        model: &Model,
        plugin: &Plugin,
        tokenizer: &Tokenizer,
        files: &RecordFiles,
        format: Format,
    ) -> Result<Self> {
        let named = |error: PluginError| error.reworded(|message| files.with_names(message));
        let options = ConvertOptions { format, keep_all: true, ..ConvertOptions::default() };
        let mut reader = plugin.reader(files, &options).map_err(named)?;
        let (mut known, mut ratings, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(sample) = reader.next_sample().map_err(named)? {
            let sample: Sample =
                serde_json::from_str(&sample).context("the plugin returned a sample that does not parse")?;
            if sample.tools.is_some() {
                bail!(
                    "record {} has `tools`, which cannot be offered to the model here: leave such records out",
                    sample.record
                );
            }
            prompts.push(match sample.prompt {
                Prompt::Text(content) => vec![Message::new("user", content)],
                Prompt::Messages(messages) => messages,
            });
            ratings.push(sample.ratings.unwrap_or_default());
            known = sample.dimensions;
        }
        if prompts.is_empty() {
            bail!("there is no record in {}: pass --records with rated responses", listed(files));
        }
        let dimensions = model.adapter_dimensions().map_or_else(|| known.clone(), <[String]>::to_vec);
        let indices = indices_of(&dimensions, &known)?;
        for record in &mut ratings {
            *record = indices.iter().map(|&index| record.get(index).cloned().unwrap_or_default()).collect();
        }

        let options = DatasetOptions {
            convert: ConvertOptions { format, dimensions: Some(dimensions), ..ConvertOptions::default() },
            tokenize: TokenizeOptions { cutoff_len: None, keep_all: false },
            cache_dir: CacheFolder::from_env().as_ref().map(CacheFolder::samples),
        };
        let mut progress = Progress::new("reading", 0, 0);
        let dataset = plugin.dataset(files, tokenizer, &options, &mut |done, total| {
            progress.update(done, total, "");
            ControlFlow::Continue(())
        });
        progress.clear();
        let dataset = dataset.map_err(named)?;
        if dataset.is_empty() {
            bail!("no record has two responses that are rated in the same dimension: pass --records with more ratings");
        }
        if let Some(notice) = model.config().notice_of_length(dataset.longest_sequence()) {
            say(&notice);
        }
        let info = tokenizer.info()?;
        let pad_token_id = info.pad_token_id.or(info.eos_token_id).unwrap_or(0);
        Ok(Self {
            dataset,
            ratings,
            prompts,
            collation: Collation {
                options: CollateOptions { layout: Layout::Packed, max_tokens: None, pad_token_id },
                device: model.device(),
            },
        })
    }

    /// Returns the names of the M dimensions.
    pub fn dimensions(&self) -> &[String] {
        self.dataset.dimensions()
    }

    /// Returns a hash of the tokenised records.
    pub fn hash(&self) -> &str {
        self.dataset.hash()
    }

    /// Returns the number of records that are measured.
    pub fn num_records(&self) -> usize {
        self.dataset.len()
    }

    /// Returns the prompts of the first records, at most `number` of them.
    pub fn prompts(&self, number: usize) -> Vec<&[Message]> {
        let records = self.dataset.samples().iter().take(number).map(|sample| sample.record_index as usize);
        records.filter_map(|record| self.prompts.get(record)).map(Vec::as_slice).collect()
    }

    /// Collates all records under λ, `[M]`, those of similar length together, always in the same order.
    pub fn batches(&self, lambda: &[f64]) -> impl Iterator<Item = Result<Batch>> {
        let length = |sample: usize| self.dataset.samples()[sample].num_tokens;
        let lambda = lambda.to_vec();
        batches_by_length((0..self.dataset.len()).collect(), length, SCORED_TOKENS).into_iter().map(move |samples| {
            let options = self.collation.of(&self.dataset, &samples);
            Ok(self.dataset.batch(&samples, &lambda.repeat(samples.len()), &options)?)
        })
    }

    /// Computes s `[S]` of each batch under a reference model.
    ///
    /// # Errors
    ///
    /// Returns an error if one is not a finite number. Errors from model, plugin or libtorch.
    pub fn reference(&self, model: &Model, plugin: &Plugin, options: &LossOptions) -> Result<Vec<Tensor>> {
        let lambda = uniform_lambda(self.dimensions().len());
        let references = self.batches(&lambda).map(|batch| {
            let batch = batch?;
            let (_, reference) = log_probs(model, plugin, &batch, options)?;
            check_finite("reference log-prob", &batch, &reference)?;
            Ok(reference)
        });
        references.collect()
    }

    /// Begins to measure a policy with the listwise objective; without a reference, s^ref is 0.
    pub fn measurement(&self, options: &LossOptions, has_reference: bool) -> Measurement<'_> {
        Measurement {
            held_out: self,
            // Batches are summed up; the mean is taken at the end.
            options: LossOptions { normalizer: Some(1.0), ..*options },
            metric_options: MetricOptions { beta: options.beta, reduction: options.reduction, has_reference },
            totals: Totals::default(),
            expected: vec![Mean::default(); self.dimensions().len()],
            num_contributing: 0,
        }
    }
}

/// Sums over batches of held-out records under a policy.
pub struct Measurement<'a> {
    held_out: &'a HeldOut,
    options: LossOptions,
    metric_options: MetricOptions,
    totals: Totals,
    expected: Vec<Mean>,
    num_contributing: usize,
}

impl Measurement<'_> {
    /// Adds a batch, and returns its sequence log-probs.
    ///
    /// # Shapes
    ///
    /// `hidden`: [R, T, H]; `lm_head`: [V, H]; `reference` and the result: `[S]`.
    ///
    /// # Errors
    ///
    /// Returns an error if a reward is not a finite number. Errors from plugin or libtorch.
    pub fn add(
        &mut self,
        plugin: &Plugin,
        batch: &Batch,
        (hidden, lm_head): (&Tensor, &Tensor),
        reference: Option<&Tensor>,
    ) -> Result<Tensor> {
        let inputs = loss_inputs(batch, hidden, lm_head, reference);
        let (outputs, _) = plugin.loss_forward(&inputs, &self.options)?;
        self.totals.add(&outputs, batch, &self.metric_options)?;
        self.num_contributing += batch.num_contributing as usize;
        let listwise = outputs.preferences.context("the loss returned no rewards")?;
        check_finite("reward", batch, &listwise.rewards)?;
        self.held_out.add_expected(batch, &listwise.rewards, &mut self.expected)?;
        Ok(outputs.sequence_log_probs)
    }

    /// Returns the means: the fields of an evaluation in `metrics.jsonl`, each with the prefix, and for each dimension
    /// `expected_rating`, the mean over records of Σ_i P^(k)_i rating_k,i under the listwise distribution P^(k) (19)
    /// over the rated responses.
    pub fn row(mut self, prefix: &str) -> Row {
        self.totals.loss /= self.num_contributing.max(1) as f64;
        let mut row = Row::new();
        let dimensions = self.held_out.dimensions();
        self.totals.write(&mut row, prefix, dimensions, &self.metric_options);
        for (name, mean) in dimensions.iter().zip(self.expected).filter(|(_, mean)| mean.count > 0.0) {
            row.insert(format!("expected_rating/{name}"), Value::from(mean.sum / mean.count));
        }
        row
    }
}

impl HeldOut {
    fn add_expected(&self, batch: &Batch, rewards: &Tensor, expected: &mut [Mean]) -> Result<()> {
        let rewards: Vec<f64> = Vec::try_from(rewards.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
        let prompts: Vec<i64> = Vec::try_from(&batch.sequence_prompts)?;
        let responses: Vec<i64> = Vec::try_from(&batch.sequence_responses)?;
        let records: Vec<i64> = Vec::try_from(&batch.record_indices)?;
        for (slot, record) in (0..).zip(records) {
            let Some(ratings) = self.ratings.get(record as usize) else { continue };
            for (ratings, mean) in ratings.iter().zip(&mut *expected) {
                let own = (0..prompts.len()).filter(|&sequence| prompts[sequence] == slot);
                let rated: Vec<(f64, f64)> = own
                    .filter_map(|sequence| {
                        let rating = ratings.get(responses[sequence] as usize).copied().flatten()?;
                        Some((rewards[sequence], rating))
                    })
                    .collect();
                if rated.len() >= 2 {
                    mean.sum += expectation(&rated);
                    mean.count += 1.0;
                }
            }
        }
        Ok(())
    }
}

/// Lists files as the user named them.
fn listed(files: &RecordFiles) -> String {
    let names = files.iter().map(|file| files.with_names(&file.display().to_string()));
    names.collect::<Vec<_>>().join(", ")
}

/// Returns the index of each of the adapter's dimensions among those of the records.
fn indices_of(dimensions: &[String], known: &[String]) -> Result<Vec<usize>> {
    let index_of = |name: &String| {
        known.iter().position(|dimension| dimension == name).with_context(|| {
            format!(
                "the adapter weighs {}, but the records are not rated in {name}: they have {}",
                dimensions.join(", "),
                known.join(", ")
            )
        })
    };
    dimensions.iter().map(index_of).collect()
}

/// Fails if a value `[S]`, one for each response of a batch, is not a finite number, which a report cannot hold.
fn check_finite(what: &str, batch: &Batch, values: &Tensor) -> Result<()> {
    let values: Vec<f64> = Vec::try_from(values.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?)?;
    let Some((sequence, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) else {
        return Ok(());
    };
    let of = |tensor: &Tensor| Vec::<i64>::try_from(tensor);
    let (prompts, responses) = (of(&batch.sequence_prompts)?, of(&batch.sequence_responses)?);
    let record = of(&batch.record_indices)?[prompts[sequence] as usize];
    bail!(
        "the {what} of response {} of record {record} is {value}: check the weights of the model and its adapter, and this \
         record",
        responses[sequence]
    );
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

/// Returns the mean of the values under the softmax of the rewards; pairs are (reward, value).
fn expectation(pairs: &[(f64, f64)]) -> f64 {
    let largest = pairs.iter().map(|(reward, _)| *reward).fold(f64::NEG_INFINITY, f64::max);
    let weights = pairs.iter().map(|(reward, _)| (reward - largest).exp());
    let (mut total, mut sum) = (0.0, 0.0);
    for (weight, (_, value)) in weights.zip(pairs) {
        total += weight;
        sum += weight * value;
    }
    sum / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_follow_the_softmax() {
        assert_eq!(expectation(&[(0.0, 1.0), (0.0, 5.0)]), 3.0);
        let third = expectation(&[(2.0_f64.ln(), 1.0), (0.0, 4.0)]);
        assert!((third - 2.0).abs() < 1e-12, "{third}");
        assert_eq!(expectation(&[(1000.0, 2.0), (-1000.0, 4.0)]), 2.0);
    }
}
