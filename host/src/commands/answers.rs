//! `lambda-dpo generate --prompts F --out F`: answers to a file of prompts, in the format of a harness.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use crate::answers::{read, respond};
use crate::cli::GenerateArgs;
use crate::console::say;
use crate::files::atomic;
use crate::generate::GenerateOptions;
use crate::lambda;

use super::loaded_model::LoadedModel;

pub(super) fn run(
    loaded: &LoadedModel,
    args: &GenerateArgs,
    prompts: &Path,
    out: &Path,
    options: &GenerateOptions,
) -> Result<()> {
    ensure!(args.batch_size >= 1, "--batch-size must be at least 1, not 0");
    let questions = read(prompts)?;
    args.format.check(&questions)?;
    loaded.check_chat_template()?;
    let answers = respond(&loaded.model, &loaded.tokenizer, &questions, options, args.batch_size)
        .with_context(|| format!("no answers to {}", prompts.display()))?;
    let name = args.name.clone().unwrap_or_else(|| name_of(loaded, args));
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64());
    let text = args.format.write(&questions, &answers, &name, seconds)?;
    atomic::write(out, text.as_bytes())?;
    say(&format!("{} answers written to {}", answers.len(), out.display()));
    Ok(())
}

/// Returns the name of the model's or adapter's folder, and λ after an @.
fn name_of(loaded: &LoadedModel, args: &GenerateArgs) -> String {
    let policy = &args.model.policy;
    let path = policy.adapter.as_ref().unwrap_or(&policy.model);
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    match (loaded.model.lambda(), loaded.model.adapter_dimensions()) {
        (Some(weights), Some(dimensions)) => format!("{name}@{}", lambda::show(&weights, dimensions)),
        _ => name.into_owned(),
    }
}
