//! Opens the records of a run, says what was left out, and sets up λ.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::config::{AdapterKind, RunConfig, Stage};
use crate::files::cache_folder::CacheFolder;
use crate::files::hub::Hub;
use crate::plugin::{
    CollateOptions, ConvertOptions, Dataset, DatasetOptions, Format, Plugin, TokenizeOptions, Tokenizer,
};

use crate::console::{Progress, say};
use crate::policy::batch_inputs::uniform_lambda;
use crate::train::TrainError;
use crate::train::durable::Interrupt;

use super::batches::{EvalBatches, TrainBatches};
use super::lambda::{LambdaSource, lambda_source};
use super::order::{EpochOrder, Plan, split};

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
        cache: Option<&CacheFolder>,
        interrupt: &Interrupt,
    ) -> Result<Self, TrainError> {
        let tokenizer = plugin.tokenizer(model_folder, config.data.chat_template.as_deref())?;
        let info = tokenizer.info()?;
        let cutoff_len = Some(count(config.data.cutoff_len));
        let open = |key: &'static str, records: &[PathBuf], convert: ConvertOptions| {
            let options = DatasetOptions {
                convert,
                tokenize: TokenizeOptions { cutoff_len, keep_all: false },
                cache_dir: cache.map(CacheFolder::samples),
            };
            open_dataset(key, &hub.record_files(records)?, plugin, &tokenizer, &options, interrupt)
        };
        let mut convert = convert_options(config);
        let train = open("data.records", &config.data.records, convert.clone())?;
        let eval = if config.data.eval_records.is_empty() {
            None
        } else {
            // Held-out records are rated in the same dimensions, in the same order.
            if config.stage == Stage::LambdaDpo {
                convert.dimensions = Some(train.dimensions().to_vec());
            }
            Some(open("data.eval_records", &config.data.eval_records, convert)?)
        };
        let collate = CollateOptions {
            layout: config.loss.layout,
            max_tokens: config.loss.max_tokens.map(count),
            pad_token_id: info.pad_token_id.or(info.eos_token_id).unwrap_or(0),
        };
        Ok(Self { train, eval, collate })
    }

    /// Names of the dimensions, in order.
    pub fn dimensions(&self) -> &[String] {
        self.train.dimensions()
    }

    /// Names of the dimensions that a λ-adapter weighs: the records' own, or where the stage has none those of the config;
    /// None without such an adapter.
    pub fn adapter_dimensions<'a>(&'a self, config: &'a RunConfig) -> Option<&'a [String]> {
        config.adapter.as_ref().filter(|adapter| adapter.kind == AdapterKind::LambdaLora)?;
        match config.stage {
            Stage::LambdaDpo => Some(self.dimensions()),
            Stage::Sft | Stage::Dpo => config.data.dimensions.as_deref(),
        }
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
        let own = uniform_lambda(self.train.dimensions().len());
        let ((lambda, eval_lambda), adapter) = match (config.stage, self.adapter_dimensions(config)) {
            (Stage::LambdaDpo, _) => (lambda_source(config, plugin, self.train.dimensions())?, None),
            (_, None) => ((LambdaSource::Constant(own.clone()), own), None),
            (_, Some(dimensions)) => {
                ((LambdaSource::Constant(own.clone()), own), Some(lambda_source(config, plugin, dimensions)?))
            }
        };
        let (adapter_lambda, eval_adapter_lambda) = adapter.unzip();
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
        let eval = (!eval_samples.is_empty()).then(|| {
            EvalBatches::new(eval_dataset, eval_samples, eval_lambda, eval_adapter_lambda, collate, batch_size)
        });
        let order = EpochOrder::new(samples.len(), config.seed);
        Ok((TrainBatches { dataset: &self.train, samples, lambda, adapter_lambda, collate, plan, order }, eval))
    }

    /// Tells other training samples from the same ones.
    pub fn hash(&self) -> &str {
        self.train.hash()
    }
}

fn count(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn convert_options(config: &RunConfig) -> ConvertOptions {
    let data = &config.data;
    let format = data.format.unwrap_or_default();
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
    options: &DatasetOptions,
    interrupt: &Interrupt,
) -> Result<Dataset, TrainError> {
    let cutoff_len = options.tokenize.cutoff_len.unwrap_or(0);
    let mut progress = Progress::new(&format!("reading {key}"), 0, 0);
    let dataset = plugin.dataset(files, tokenizer, options, &mut |done, total| {
        progress.update(done, total, "");
        if interrupt.signal().is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.clear();
    let dataset = dataset?;
    let mut lines = dataset.report().describe(cutoff_len);
    if dataset.is_empty() {
        return Err(TrainError::NoSamples { key, counts: lines.join("; ") });
    }
    lines.extend(dataset.describe_cache());
    say(&format!("{key}: {}", lines.join("; ")));
    Ok(dataset)
}
