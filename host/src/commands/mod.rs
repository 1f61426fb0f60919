//! The program's commands, one file each; what they share is here.

mod convert;
mod generate;
mod schema;
mod score;
mod train;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cli::{Cli, Command, ModelArgs};
use crate::hub::Hub;
use crate::libtorch;
use crate::model::Model;
use crate::plugin::{Plugin, Tokenizer};

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
    model.freeze();
    Ok(Opened { plugin, folder, model, tokenizer })
}
