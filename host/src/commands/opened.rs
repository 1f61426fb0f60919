//! What commands open: a model with its tokenizer and adapter, and records.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tch::{Device, Kind};

use crate::cli::{ModelArgs, PolicyArgs};
use crate::config::Format;
use crate::console::Progress;
use crate::files::cache_folder::CacheFolder;
use crate::files::hub::Hub;
use crate::libtorch;
use crate::model::Model;
use crate::plugin::{ConvertOptions, Dataset, DatasetOptions, Message, Plugin, TokenizeOptions, Tokenizer};
use crate::policy::batch_inputs::uniform_lambda;

use super::lambda;

/// A model, ready to run.
pub(super) struct Opened {
    pub(super) plugin: Plugin,
    pub(super) folder: PathBuf,
    pub(super) model: Model,
    pub(super) tokenizer: Tokenizer,
}

impl Opened {
    /// Tokens of a conversation that the model is to go on with.
    pub(super) fn render(&self, messages: &[Message]) -> Result<Vec<i64>> {
        if !self.tokenizer.info()?.has_chat_template {
            bail!(
                "the tokenizer of {} has no chat template: use --raw, or give one with --chat-template FILE",
                self.folder.display()
            );
        }
        let text = self.tokenizer.render(messages, true)?;
        Ok(self.tokenizer.encode(&text)?)
    }

    /// Tokens that end a text: those of `generation_config.json`, else of `config.json`, else the tokenizer's.
    pub(super) fn eos_token_ids(&self) -> Result<Vec<i64>> {
        for name in ["generation_config.json", "config.json"] {
            let Ok(text) = std::fs::read_to_string(self.folder.join(name)) else { continue };
            let Ok(config) = serde_json::from_str::<Value>(&text) else { continue };
            let ids: Vec<i64> = match &config["eos_token_id"] {
                Value::Array(ids) => ids.iter().filter_map(Value::as_i64).collect(),
                id => id.as_i64().into_iter().collect(),
            };
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(self.tokenizer.info()?.eos_token_id.into_iter().collect())
    }
}

pub(super) fn open(args: &ModelArgs, plugin: Option<&Path>) -> Result<Opened> {
    let device = libtorch::prepare(&args.device)?;
    let plugin = Plugin::load(plugin)?;
    let folder = Hub::from_env().model_folder(&args.policy.model)?;
    let tokenizer = plugin.tokenizer(&folder, args.policy.chat_template.as_deref())?;
    let model = load(&args.policy, &folder, device, args.dtype.into())?;
    model.freeze();
    Ok(Opened { plugin, folder, model, tokenizer })
}

/// The model of `folder` with its adapter, a λ-adapter at `--lambda` or at uniform λ.
pub(super) fn load(args: &PolicyArgs, folder: &Path, device: Device, kind: Kind) -> Result<Model> {
    let mut model = Model::load(folder, device, kind)?;
    if let Some(adapter) = &args.adapter {
        model.load_adapter(adapter)?;
    }
    let Some(dimensions) = model.adapter_dimensions() else {
        if args.lambda.is_some() {
            let what = match &args.adapter {
                Some(adapter) => format!("{} is one without λ", adapter.display()),
                None => "there is no adapter".to_owned(),
            };
            bail!("--lambda takes an adapter of kind \"lambda_lora\", and {what}: leave --lambda out");
        }
        return Ok(model);
    };
    let weights = match &args.lambda {
        Some(text) => lambda::parse(text, dimensions).context("--lambda")?,
        None => uniform_lambda(dimensions.len()),
    };
    model.fix_lambda(&weights)?;
    Ok(model)
}

/// Every record of the files, whole: nothing is truncated, filtered or left out, and ratings do not matter.
pub(super) fn open_records(
    plugin: &Plugin,
    tokenizer: &Tokenizer,
    files: &[PathBuf],
    format: Format,
) -> Result<Dataset> {
    let convert = ConvertOptions { format, keep_all: true, ..ConvertOptions::default() };
    let tokenize = TokenizeOptions { cutoff_len: None, keep_all: true };
    let options =
        DatasetOptions { convert, tokenize, cache_dir: CacheFolder::from_env().as_ref().map(CacheFolder::samples) };
    let mut progress = Progress::new("reading", 0, 0);
    let dataset = plugin.dataset(files, tokenizer, &options, &mut |done, total| {
        progress.update(done, total, "");
        ControlFlow::Continue(())
    });
    progress.clear();
    Ok(dataset?)
}
