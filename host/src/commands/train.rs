//! `lambda-dpo train CONFIG.toml [key=value …]`: runs the training that a config describes.

use std::path::Path;

use anyhow::Result;

use crate::cli::TrainArgs;
use crate::config;
use crate::train::{self, Outcome};

pub(super) fn run(args: &TrainArgs, plugin: Option<&Path>) -> Result<u8> {
    // A variable that is not UTF-8 cannot be a key of the config.
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = config::load(&args.config, environment, &args.overrides)?;
    match train::run(&config, plugin)? {
        Outcome::Finished(_) => Ok(0),
        // The exit code of a process that was ended by a signal, by the convention of shells.
        Outcome::Interrupted(signal) => Ok(u8::try_from(128 + signal).unwrap_or(1)),
    }
}
