//! Opens the records of a run, reports which were skipped, and sets up its batches.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::config::{AdapterKind, RunConfig, Stage};
use crate::console::{Progress, say};
use crate::files::cache_folder::CacheFolder;
use crate::files::git_lfs::refuse_pointer;
use crate::files::hub::Use;
use crate::files::record_files::{RecordFiles, RecordFilesError};
use crate::interrupt::Interrupt;
use crate::model::ModelConfig;
use crate::plugin::{CollateOptions, ConvertOptions, Dataset, DatasetOptions, Plugin, TokenizeOptions, Tokenizer};
use crate::policy::batch_inputs::uniform_lambda;
use crate::policy::collation::Collation;
use crate::train::TrainError;
use crate::train::setup::Setup;

use super::batches::{EvalBatches, RunBatches, TrainBatches};
use super::lambda::{LambdaSource, lambda_source};
use super::order::{EpochOrder, Plan, split};

/// The records of a run, tokenised.
#[derive(Debug)]
pub struct Data {
    train: Dataset,
    /// Separate evaluation records; None if evaluation samples are held out from `train`.
    eval: Option<Dataset>,
    collation: Collation,
    /// The config of the model to train; None for a TorchScript module.
    model: Option<ModelConfig>,
}

impl Data {
    /// Reads and tokenises the records, and reports which were skipped.
    ///
    /// # Errors
    ///
    /// Returns an error if a file is missing, a record does not parse, or no sample is left.
    pub(in crate::train) fn open(setup: &Setup) -> Result<Self, TrainError> {
        let Setup { config, plugin, hub, model_folder, interrupt, libtorch, .. } = setup;
        if let Some(template) = &config.data.chat_template {
            refuse_pointer(template).map_err(RecordFilesError::from)?;
        }
        let is_module = config.model.torchscript.is_some();
        let model = (!is_module).then(|| ModelConfig::load(model_folder)).transpose()?;
        let tokenizer = plugin.tokenizer(model_folder, config.data.chat_template.as_deref())?;
        let info = tokenizer.info()?;
        let cutoff_len = Some(to_usize(config.data.cutoff_len));
        let open = |key: &'static str, records: &[PathBuf], purpose: Use, convert: ConvertOptions| {
            let options = DatasetOptions {
                convert,
                tokenize: TokenizeOptions { cutoff_len, keep_all: false },
                cache_dir: setup.cache.as_ref().map(CacheFolder::samples),
            };
            let files = RecordFiles::find(hub, records, purpose)?;
            let dataset = open_dataset(key, &files, plugin, &tokenizer, &options, interrupt)?;
            if let Some(notice) = model.as_ref().and_then(|model| model.notice_of_length(dataset.longest_sequence())) {
                say(&format!("{key}: {notice}"));
            }
            Ok::<_, TrainError>(dataset)
        };
        let mut convert = convert_options(config);
        let train = open("data.records", &config.data.records, Use::Train, convert.clone())?;
        let eval = if config.data.eval_records.is_empty() {
            None
        } else {
            // The same dimensions in the same order, whatever the evaluation records have.
            if config.stage == Stage::LambdaDpo {
                convert.dimensions = Some(train.dimensions().to_vec());
            }
            Some(open("data.eval_records", &config.data.eval_records, Use::Evaluate, convert)?)
        };
        let options = CollateOptions {
            layout: config.loss.layout,
            max_tokens: config.loss.max_tokens.map(to_usize),
            pad_token_id: info.pad_token_id.or(info.eos_token_id).unwrap_or(0),
        };
        Ok(Self { train, eval, collation: Collation { options, device: libtorch.device() }, model })
    }

    /// Returns the config of the model to train; None for a TorchScript module, of which nothing is known.
    pub(in crate::train) fn model(&self) -> Option<&ModelConfig> {
        self.model.as_ref()
    }

    /// Returns the names of the dimensions, in order.
    pub fn dimensions(&self) -> &[String] {
        self.train.dimensions()
    }

    /// Returns the dimensions of a λ-adapter: those of the records, or of the config in stages without rated
    /// dimensions; None without a λ-adapter.
    pub fn adapter_dimensions<'a>(&'a self, config: &'a RunConfig) -> Option<&'a [String]> {
        config.adapter.as_ref().filter(|adapter| adapter.kind == AdapterKind::LambdaLora)?;
        match config.stage {
            Stage::LambdaDpo => Some(self.dimensions()),
            Stage::Sft | Stage::Dpo => config.data.dimensions.as_deref(),
        }
    }

    /// Sets up training and evaluation batches.
    ///
    /// # Errors
    ///
    /// Returns an error if λ names an unknown dimension, or no sample is left to train on.
    pub fn batches(&self, config: &RunConfig, plugin: &Plugin) -> Result<RunBatches<'_>, TrainError> {
        let (samples, held_out) = split(self.train.len(), config.data.eval_fraction, config.seed);
        if samples.is_empty() {
            return Err(TrainError::NothingToTrainOn { fraction: config.data.eval_fraction });
        }
        let own = uniform_lambda(self.train.dimensions().len());
        let ((lambda, eval_lambda), adapter) = match (config.stage, self.adapter_dimensions(config)) {
            (Stage::LambdaDpo, _) => (lambda_source(config, plugin, self.train.dimensions())?, None),
            (_, None) => ((LambdaSource::Constant(own.clone()), own), None),
            (_, Some(dimensions)) => {
                ((LambdaSource::Constant(own.clone()), own), Some(lambda_source(config, plugin, dimensions)?))
            }
        };
        let (adapter_lambda, eval_adapter_lambda) = adapter.unzip();
        let batch_size = to_usize(config.train.per_device_train_batch_size);
        let plan = Plan {
            num_samples: samples.len(),
            batch_size,
            accumulation_steps: to_usize(config.train.gradient_accumulation_steps),
        };
        let collation = self.collation;
        let (eval_dataset, eval_samples) = match &self.eval {
            Some(eval) => (eval, (0..eval.len()).collect()),
            None => (&self.train, held_out),
        };
        let eval = (!eval_samples.is_empty()).then(|| {
            EvalBatches::new(eval_dataset, eval_samples, eval_lambda, eval_adapter_lambda, collation, batch_size)
        });
        let order = EpochOrder::new(samples.len(), config.seed);
        let max_steps = config.train.max_steps.unwrap_or_else(|| plan.max_steps(config.train.num_train_epochs));
        let train = TrainBatches { dataset: &self.train, samples, lambda, adapter_lambda, collation, plan, order };
        Ok(RunBatches { train, eval, max_steps })
    }

    /// Returns the hash of the training samples.
    pub fn hash(&self) -> &str {
        self.train.hash()
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn convert_options(config: &RunConfig) -> ConvertOptions {
    let data = &config.data;
    let format = data.format.unwrap_or_default();
    ConvertOptions {
        format,
        best_worst_pairs: config.stage == Stage::Dpo && format.has_dimensions(),
        dimensions: if format.has_dimensions() { data.dimensions.clone() } else { None },
        missing_rating: data.missing_rating.value(),
        temperature: data.temperature,
        max_samples: data.max_samples,
        exclude_sources: data.exclude_sources.clone(),
        keep_all: false,
    }
}

fn open_dataset(
    key: &'static str,
    files: &RecordFiles,
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
    let dataset = dataset.map_err(|error| error.reworded(|message| files.with_names(message)))?;
    let mut lines = dataset.report().describe(cutoff_len);
    if dataset.is_empty() {
        return Err(TrainError::NoSamples { key, counts: lines.join("; ") });
    }
    lines.extend(dataset.describe_cache());
    say(&format!("{key}: {}", lines.join("; ")));
    Ok(dataset)
}
