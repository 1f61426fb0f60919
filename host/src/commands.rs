//! The program's commands, one file each.

mod loaded_model;
mod records;

mod train;
mod plan;
mod convert;
mod score;
mod generate;
mod answers;
mod chat;
mod steer;
mod report;
mod schedule;
mod evaluate;
mod serve;
mod export;
mod validate;
mod schema;

use anyhow::Result;

use crate::cli::{Cli, Command};

/// Runs the command, and returns the exit code.
///
/// # Errors
///
/// Errors of the command, each a sentence.
pub fn run(cli: &Cli) -> Result<u8> {
    let plugin = cli.plugin.as_deref();
    match &cli.command {
        Command::Train(args) => train::run(args, plugin),
        Command::Plan(args) => plan::run(args, plugin).map(|()| 0),
        Command::Convert(args) => convert::run(args, plugin).map(|()| 0),
        Command::Score(args) => score::run(args, plugin).map(|()| 0),
        Command::Generate(args) => generate::run(args, plugin).map(|()| 0),
        Command::Steer(args) => steer::run(args, plugin).map(|()| 0),
        Command::Report(args) => report::run(args).map(|()| 0),
        Command::Schedule(args) => schedule::run(args, plugin).map(|()| 0),
        Command::Evaluate(args) => evaluate::run(args, plugin).map(|()| 0),
        Command::Serve(args) => serve::run(args, plugin).map(|()| 0),
        Command::Export(args) => export::run(args).map(|()| 0),
        Command::Validate(args) => validate::run(args, plugin),
        Command::Schema(args) => schema::run(args).map(|()| 0),
    }
}
