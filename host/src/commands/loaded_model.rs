//! A model with its tokenizer and adapter, as most commands load it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tch::Kind;

use crate::cli::{ModelArgs, PolicyArgs};
use crate::config::Quantization;
use crate::console::say;
use crate::files::git_lfs::refuse_pointer;
use crate::files::hub::Hub;
use crate::files::regular;
use crate::lambda;
use crate::libtorch::{self, Libtorch};
use crate::model::{Model, Precision};
use crate::plugin::{Message, Plugin, Tokenizer};
use crate::policy::batch_inputs::uniform_lambda;

/// A model, ready to run.
pub(super) struct LoadedModel {
    pub(super) plugin: Plugin,
    pub(super) folder: PathBuf,
    pub(super) model: Model,
    pub(super) tokenizer: Tokenizer,
}

impl LoadedModel {
    /// Loads the model that the command line names, and freezes it.
    pub(super) fn load(args: &ModelArgs, plugin: Option<&Path>) -> Result<Self> {
        Self::load_on(prepare(args)?, args, plugin)
    }

    /// Loads it as [`load`](Self::load) does, on a device that is prepared.
    pub(super) fn load_on(libtorch: Libtorch, args: &ModelArgs, plugin: Option<&Path>) -> Result<Self> {
        let plugin = Plugin::load(plugin)?;
        let folder = Hub::from_env().model_folder(&args.policy.model)?;
        args.policy.chat_template.as_deref().map_or(Ok(()), refuse_pointer)?;
        let tokenizer = plugin.tokenizer(&folder, args.policy.chat_template.as_deref())?;
        let model = load_policy(&args.policy, &folder, libtorch, args.dtype.into())?;
        model.freeze();
        Ok(Self { plugin, folder, model, tokenizer })
    }

    /// Encodes a conversation through the chat template, up to the start of the model's answer.
    pub(super) fn encode_conversation(&self, messages: &[Message]) -> Result<Vec<i64>> {
        self.check_chat_template()?;
        let text = self.tokenizer.render(messages, true)?;
        Ok(self.tokenizer.encode(&text)?)
    }

    /// Fails if conversations cannot be encoded.
    pub(super) fn check_chat_template(&self) -> Result<()> {
        if !self.tokenizer.info()?.has_chat_template {
            bail!(
                "the tokenizer of {} has no chat template: use --raw, or pass one with --chat-template FILE",
                self.folder.display()
            );
        }
        Ok(())
    }

    /// Returns the tokens that end a text: those of `generation_config.json`, else of `config.json`, else the
    /// tokenizer's.
    pub(super) fn eos_token_ids(&self) -> Result<Vec<i64>> {
        for name in ["generation_config.json", "config.json"] {
            let path = self.folder.join(name);
            let text = match regular::read_to_string(&path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other.with_context(|| format!("{} cannot be read", path.display()))?,
            };
            let config: Value = serde_json::from_str(&text)
                .with_context(|| format!("{} is not valid JSON: copy or download it again", path.display()))?;
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

/// Prepares libtorch for the device that the command line names, and says if its dtype does not suit the device.
pub(super) fn prepare(args: &ModelArgs) -> Result<Libtorch> {
    let libtorch = libtorch::prepare(&args.device)?;
    if let Some(notice) = libtorch.float32_notice(&args.device, args.dtype.into()) {
        say(&notice);
    }
    Ok(libtorch)
}

/// Returns how precisely the weights are held that the command line names, in a dtype.
pub(super) fn precision(args: &PolicyArgs, kind: Kind) -> Precision {
    Precision { kind, nf4: args.quantize == Some(Quantization::Nf4) }
}

/// Loads the model in `folder` with its adapter; a λ-adapter is set to `--lambda`, or else to uniform λ.
pub(super) fn load_policy(args: &PolicyArgs, folder: &Path, libtorch: Libtorch, kind: Kind) -> Result<Model> {
    let mut model = Model::load(folder, libtorch, precision(args, kind))?;
    if let Some(adapter) = &args.adapter {
        model.load_adapter(adapter)?;
    }
    let Some(dimensions) = model.adapter_dimensions() else {
        if args.lambda.is_some() {
            let what = match &args.adapter {
                Some(adapter) => format!("{} is not", adapter.display()),
                None => "there is no adapter".to_owned(),
            };
            bail!("--lambda needs an adapter of kind \"lambda_lora\", but {what}: leave --lambda out");
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
