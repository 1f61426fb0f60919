//! The program's commands, one file each; what they share is here.

mod chat;
mod convert;
mod export;
mod generate;
mod lambda;
mod schema;
mod score;
mod steer;
mod train;
mod validate;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tch::{Device, Kind};

use crate::cache::CacheFolder;
use crate::cli::{Cli, Command, ModelArgs, PolicyArgs};
use crate::config::DataFormat;
use crate::hub::Hub;
use crate::libtorch;
use crate::model::Model;
use crate::plugin::{ConvertOptions, Dataset, DatasetOptions, Plugin, TokenizeOptions, Tokenizer};
use crate::train::data::uniform;
use crate::train::progress::Progress;

/// Runs what was asked for; gives the exit code.
///
/// # Errors
///
/// Whatever went wrong, as a sentence.
pub fn run(cli: &Cli) -> Result<u8> {
    let plugin = cli.plugin.as_deref();
    match &cli.command {
        Command::Train(args) => train::run(args, plugin),
        Command::Convert(args) => convert::run(args, plugin).map(|()| 0),
        Command::Score(args) => score::run(args, plugin).map(|()| 0),
        Command::Generate(args) => generate::run(args, plugin).map(|()| 0),
        Command::Steer(args) => steer::run(args, plugin).map(|()| 0),
        Command::Export(args) => export::run(args).map(|()| 0),
        Command::Validate(args) => validate::run(args, plugin),
        Command::Schema(args) => schema::run(args).map(|()| 0),
    }
}

/// A model, ready to run.
struct Opened {
    plugin: Plugin,
    folder: PathBuf,
    model: Model,
    tokenizer: Tokenizer,
}

fn open(args: &ModelArgs, plugin: Option<&Path>) -> Result<Opened> {
    let device = libtorch::prepare(&args.device)?;
    let plugin = Plugin::load(plugin)?;
    let folder = Hub::from_env().model_folder(&args.policy.model)?;
    let tokenizer = plugin.tokenizer(&folder, args.policy.chat_template.as_deref())?;
    let model = load(&args.policy, &folder, device, args.dtype.kind())?;
    model.freeze();
    Ok(Opened { plugin, folder, model, tokenizer })
}

/// The model of `folder` with its adapter, a λ-adapter at `--lambda` or at uniform λ.
fn load(args: &PolicyArgs, folder: &Path, device: Device, kind: Kind) -> Result<Model> {
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
        None => uniform(dimensions.len()),
    };
    model.fix_lambda(&weights)?;
    Ok(model)
}

/// Every record of the files, whole: nothing is truncated, filtered or left out, and ratings do not matter.
fn open_records(plugin: &Plugin, tokenizer: &Tokenizer, files: &[PathBuf], format: DataFormat) -> Result<Dataset> {
    let convert = ConvertOptions { format: format.format(), keep_all: true, ..ConvertOptions::default() };
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
