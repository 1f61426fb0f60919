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

use crate::cache::CacheFolder;
use crate::cli::{Cli, Command, ModelArgs};
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
    let folder = Hub::from_env().model_folder(&args.model)?;
    let tokenizer = plugin.tokenizer(&folder, args.chat_template.as_deref())?;
    let mut model = Model::load(&folder, device, args.dtype.kind())?;
    if let Some(adapter) = &args.adapter {
        model.load_adapter(adapter)?;
    }
    set_lambda(&mut model, args.adapter.as_deref(), args.lambda.as_deref())?;
    model.freeze();
    Ok(Opened { plugin, folder, model, tokenizer })
}

/// Sets a λ-adapter to `--lambda`, or to uniform λ; `adapter` is where it came from, for messages.
fn set_lambda(model: &mut Model, adapter: Option<&Path>, lambda: Option<&str>) -> Result<()> {
    let Some(dimensions) = model.adapter_dimensions() else {
        if lambda.is_some() {
            let what = adapter
                .map_or("there is no adapter".to_owned(), |adapter| format!("{} is one without λ", adapter.display()));
            bail!("--lambda takes an adapter of kind \"lambda_lora\", and {what}: leave --lambda out");
        }
        return Ok(());
    };
    let weights = match lambda {
        Some(text) => self::lambda::parse(text, dimensions).context("--lambda")?,
        None => uniform(dimensions.len()),
    };
    Ok(model.fix_lambda(&weights)?)
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
