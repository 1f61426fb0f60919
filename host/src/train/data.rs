//! Opens the records of a run, says what was left out, and sets up λ.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{self, DataFormat, RunConfig, Schedule, Stage, schedule_options};
use crate::hub::Hub;
use crate::plugin::{
    CollateOptions, ConvertOptions, Dataset, Format, Layout, Plugin, Report, TokenizeOptions, Tokenizer,
};

use super::TrainError;
use super::batches::{EvalBatches, LambdaSource, TrainBatches};
use super::order::{Plan, split};
use super::progress::{Progress, say};
use super::signals::Interrupt;

/// The records of a run, tokenised.
#[derive(Debug)]
pub struct Data {
    train: Dataset,
    /// Where it is not a part of `train`.
    eval: Option<Dataset>,
    collate: CollateOptions,
}

impl Data {
    /// Reads and tokenises the records, and reports what was left out.
    ///
    /// # Errors
    ///
    /// A missing file, a record that does not parse, no sample left.
    pub fn open(
        config: &RunConfig,
        plugin: &Plugin,
        hub: &Hub,
        model_folder: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, TrainError> {
        let tokenizer = plugin.tokenizer(model_folder, config.data.chat_template.as_deref())?;
        let info = tokenizer.info()?;
        let open = |key: &'static str, records: &[PathBuf], convert: &ConvertOptions| {
            let files = hub.record_files(records)?;
            open_dataset(key, &files, plugin, &tokenizer, convert, config, interrupt)
        };
        let mut convert = convert_options(config);
        let train = open("data.records", &config.data.records, &convert)?;
        let eval = if config.data.eval_records.is_empty() {
            None
        } else {
            // Held-out records are rated in the same dimensions, in the same order.
            if config.stage == Stage::LambdaDpo {
                convert.dimensions = Some(train.dimensions().to_vec());
            }
            Some(open("data.eval_records", &config.data.eval_records, &convert)?)
        };
        let collate = CollateOptions {
            layout: match config.loss.layout {
                config::Layout::Packed => Layout::Packed,
                config::Layout::Rows => Layout::Rows,
                config::Layout::Expanded => Layout::Expanded,
            },
            max_tokens: config.loss.max_tokens.map(count),
            pad_token_id: info.pad_token_id.or(info.eos_token_id).unwrap_or(0),
        };
        Ok(Self { train, eval, collate })
    }

    /// Names of the dimensions, in order.
    pub fn dimensions(&self) -> &[String] {
        self.train.dimensions()
    }

    /// Training and evaluation batches.
    ///
    /// # Errors
    ///
    /// λ names an unknown dimension.
    pub fn batches(
        &self,
        config: &RunConfig,
        plugin: &Plugin,
    ) -> Result<(TrainBatches<'_>, Option<EvalBatches<'_>>), TrainError> {
        let (samples, held_out) = split(self.train.len(), config.data.eval_fraction, config.seed);
        let num_dimensions = self.train.dimensions().len();
        let (lambda, eval_lambda) = match config.stage {
            Stage::Sft | Stage::Dpo => {
                let lambda = uniform(num_dimensions);
                (LambdaSource::Constant(lambda.clone()), lambda)
            }
            Stage::LambdaDpo => {
                let options = schedule_options(&config.lambda, self.train.dimensions())?;
                let schedule = plugin.schedule(&options)?;
                let eval_lambda = match config.lambda.schedule {
                    Schedule::Fixed => schedule.draw_step(config.seed, 0)?,
                    _ => uniform(num_dimensions),
                };
                (LambdaSource::Schedule { schedule, per: config.lambda.per, seed: config.seed }, eval_lambda)
            }
        };
        let batch_size = count(config.train.per_device_train_batch_size);
        let plan = Plan {
            num_samples: samples.len(),
            batch_size,
            accumulation_steps: count(config.train.gradient_accumulation_steps),
        };
        let collate = self.collate;
        let (eval_dataset, eval_samples) = match &self.eval {
            Some(eval) => (eval, (0..eval.len()).collect()),
            None => (&self.train, held_out),
        };
        let eval = (!eval_samples.is_empty()).then_some(EvalBatches {
            dataset: eval_dataset,
            samples: eval_samples,
            lambda: eval_lambda,
            collate,
            batch_size,
        });
        Ok((TrainBatches { dataset: &self.train, samples, lambda, collate, plan, seed: config.seed }, eval))
    }

    /// SHA-256 over the training samples' indices and lengths: tells other records from the same ones.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for name in self.train.dimensions() {
            hasher.update(name.as_bytes());
            hasher.update([0]);
        }
        for sample in self.train.samples() {
            for number in [sample.record_index, sample.num_responses as u64, sample.num_tokens as u64] {
                hasher.update(number.to_le_bytes());
            }
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// λ that weighs all dimensions alike.
pub fn uniform(num_dimensions: usize) -> Vec<f64> {
    let weight = 1.0 / num_dimensions as f64;
    vec![weight; num_dimensions]
}

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn convert_options(config: &RunConfig) -> ConvertOptions {
    let data = &config.data;
    let format = match data.format {
        Some(DataFormat::Chat) => Format::Chat,
        Some(DataFormat::Pairs) => Format::Pairs,
        Some(DataFormat::UltraFeedback) | None => Format::UltraFeedback,
    };
    ConvertOptions {
        format,
        best_worst_pairs: config.stage == Stage::Dpo && format == Format::UltraFeedback,
        dimensions: if format == Format::UltraFeedback { data.dimensions.clone() } else { None },
        missing_rating: data.missing_rating.value(),
        temperature: data.temperature,
        max_samples: data.max_samples,
        exclude_sources: data.exclude_sources.clone(),
        keep_all: false,
    }
}

fn open_dataset(
    key: &'static str,
    files: &[PathBuf],
    plugin: &Plugin,
    tokenizer: &Tokenizer,
    convert: &ConvertOptions,
    config: &RunConfig,
    interrupt: &Interrupt,
) -> Result<Dataset, TrainError> {
    let cutoff_len = count(config.data.cutoff_len);
    let tokenize = TokenizeOptions { cutoff_len: Some(cutoff_len), keep_all: false };
    let mut progress = Progress::new(&format!("reading {key}"), 0, 0);
    let dataset = plugin.dataset(files, tokenizer, convert, &tokenize, &mut |done, total| {
        progress.update(done, total, "");
        if interrupt.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.clear();
    let dataset = dataset?;
    let lines = describe(dataset.report(), cutoff_len);
    if dataset.is_empty() {
        return Err(TrainError::NoSamples { key, counts: lines.join("; ") });
    }
    say(&format!("{key}: {}", lines.join("; ")));
    Ok(dataset)
}

/// What became of the records, in words.
pub fn describe(report: &Report, cutoff_len: usize) -> Vec<String> {
    let mut lines = vec![counted(report.num_records, "record"), counted(report.num_samples, "sample")];
    for (reason, number) in report.skipped.iter().filter(|(_, number)| **number > 0) {
        lines.push(format!("{number} skipped: {}", reason.replace('_', " ")));
    }
    if report.num_truncated > 0 {
        lines.push(format!("{} truncated to {cutoff_len} tokens", report.num_truncated));
    }
    if report.num_dropped_responses > 0 {
        lines.push(format!("{} without a token dropped", counted(report.num_dropped_responses, "response")));
    }
    for (kind, missing) in &report.missing_ratings {
        let count = counted(missing.count, "rating");
        lines.push(format!("{count} missing ({kind}, first in record {})", missing.first_record));
    }
    lines
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
