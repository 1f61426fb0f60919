//! `lambda-dpo steer`: writes a control report over a grid of λ.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use indexmap::IndexMap;

use crate::answers::Rater;
use crate::cli::SteerArgs;
use crate::console::say;
use crate::files::hub::{Hub, Use};
use crate::files::record_files::RecordFiles;
use crate::files::report_folder::ReportFolder;
use crate::generate::GenerateOptions;
use crate::plugin::LossOptions;
use crate::steer::{FILES, NamedReport, Settings, Subject, measure, read, tables, write};

use super::loaded_model::LoadedModel;

pub(super) fn run(args: &SteerArgs, plugin: Option<&Path>) -> Result<()> {
    ensure!(args.model.policy.lambda.is_none(), "steer measures a grid of λ: leave --lambda out");
    ensure!(args.steps >= 1, "--steps must be at least 1, not 0");
    ensure!(args.num_prompts >= 1, "--num-prompts must be at least 1, not 0: leave --rater out to generate nothing");
    ensure!(args.num_samples >= 1, "--num-samples must be at least 1, not 0");
    ensure!(args.beta > 0.0 && args.beta.is_finite(), "--beta must be a number above 0, not {}", args.beta);
    ensure!(
        args.format.has_dimensions(),
        "--format must be ultrafeedback or rankings, not {}: steer measures rated responses",
        args.format
    );
    let rater = args.rater.as_deref().map(Rater::parse).transpose()?;
    let others = named(&args.compare, "--compare")?
        .into_iter()
        .map(|(name, folder)| Ok(NamedReport { report: read(&folder)?, name }))
        .collect::<Result<Vec<_>>>()?;
    let soup = named(&args.soup, "--soup")?;
    let out = ReportFolder::begin(&args.out, &FILES)?;
    let files = RecordFiles::find(&Hub::from_env(), &args.records, Use::Evaluate)?;

    let mut loaded = LoadedModel::load(&args.model, plugin)?;
    if !soup.is_empty() {
        let specialists: Vec<(String, PathBuf)> = soup.iter().map(|(name, at)| (name.clone(), at.clone())).collect();
        loaded.model.load_soup(&specialists)?;
        loaded.model.freeze();
    }
    if rater.is_some() && !loaded.tokenizer.info()?.has_chat_template {
        bail!(
            "the tokenizer of {} has no chat template, which --rater needs: pass one with --chat-template FILE",
            loaded.folder.display()
        );
    }
    let settings = Settings {
        loss: LossOptions { reduction: args.reduction, beta: args.beta, ..LossOptions::default() },
        format: args.format,
        num_steps: args.steps,
        rater,
        num_prompts: args.num_prompts,
        num_samples: args.num_samples,
        batch_size: args.batch_size,
        generate: GenerateOptions {
            max_new_tokens: args.max_new_tokens,
            temperature: args.temperature,
            top_p: args.top_p,
            seed: args.seed,
            eos_token_ids: loaded.eos_token_ids()?,
        },
    };
    let subject = Subject { model: args.model.policy.model.clone(), adapter: args.model.policy.adapter.clone(), soup };
    let (report, interim) = measure(
        subject,
        &mut loaded.model,
        &loaded.plugin,
        &loaded.tokenizer,
        &files,
        &settings,
        (&loaded.folder, &args.out),
    )?;
    let page = write(out, &report, &others)?;
    interim.finish();
    std::io::stdout().write_all(tables(&report, &others).as_bytes())?;
    say(&format!("report written to {}", page.display()));
    Ok(())
}

/// Parses NAME=DIR, with each name once.
fn named(parts: &[String], flag: &str) -> Result<IndexMap<String, PathBuf>> {
    let mut found = IndexMap::new();
    for part in parts {
        let (name, folder) = part.split_once('=').with_context(|| format!("{flag} takes NAME=DIR, not {part}"))?;
        if found.insert(name.to_owned(), PathBuf::from(folder)).is_some() {
            bail!("{flag} names {name} twice");
        }
    }
    Ok(found)
}
