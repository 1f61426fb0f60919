//! `lambda-dpo score`: the log-prob of every response of every record.

use std::io;
use std::ops::Range;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;
use tch::{Device, Kind};

use crate::cli::ScoreArgs;
use crate::console::{Progress, say};
use crate::files::atomic::NewFile;
use crate::files::hub::{Hub, Use};
use crate::files::record_files::RecordFiles;
use crate::plugin::{CollateOptions, Dataset, Layout, LossOptions, Plugin, Tokenizer};
use crate::policy::batch_inputs::uniform_lambda;
use crate::policy::batches_by_length::{SCORED_TOKENS, batches_in_order};
use crate::policy::{Scorer, TorchScriptPolicy};

use super::loaded_model::{LoadedModel, prepare};
use super::records::open_records;

/// A line of the output.
#[derive(Debug, Serialize)]
struct Score {
    /// Index of the record in the concatenated inputs.
    record: u64,
    /// Sums of token log-probs `[N]`, one for each response.
    log_probs: Vec<f32>,
    /// Numbers of tokens `[N]`.
    num_tokens: Vec<i64>,
}

impl Score {
    /// Fails if a log-prob is not a finite number, which JSON cannot hold.
    fn finite(self, policy: &Path) -> Result<Self> {
        if let Some((response, value)) = (0..).zip(&self.log_probs).find(|(_, value)| !value.is_finite()) {
            let record = self.record;
            bail!(
                "the log-prob of response {response} of record {record} is {value}: check the weights of {} and its \
                 adapter, and this record",
                policy.display()
            );
        }
        Ok(self)
    }
}

pub(super) fn run(args: &ScoreArgs, plugin: Option<&Path>) -> Result<()> {
    let out = NewFile::create(&args.out)?;
    let files = RecordFiles::find(&Hub::from_env(), &args.records, Use::Train)?;
    let (plugin, tokenizer, scorer) = open_scorer(args, plugin)?;
    let dataset = open_records(&plugin, &tokenizer, &files, args.format)?;
    if let Some(notice) = scorer.config().and_then(|config| config.notice_of_length(dataset.longest_sequence())) {
        say(&notice);
    }

    let policy = args.torchscript.as_ref().unwrap_or(&args.model.policy.model);
    let mut progress = Progress::new("scoring", dataset.len() as u64, 0);
    let mut failed = None;
    let written = out.fill(|file| {
        let mut write = |scores: Vec<Score>| -> Result<()> {
            for score in scores {
                writeln!(file, "{}", serde_json::to_string(&score.finite(policy)?)?)?;
            }
            Ok(())
        };
        for samples in batches_in_order(dataset.len(), |sample| dataset.samples()[sample].num_tokens, SCORED_TOKENS) {
            let done = samples.end as u64;
            if let Err(error) = score(scorer.as_ref(), &plugin, &dataset, samples).and_then(&mut write) {
                failed = Some(error);
                return Err(io::ErrorKind::InvalidData.into());
            }
            progress.update(done, dataset.len() as u64, "");
        }
        Ok(())
    });
    progress.clear();
    match failed {
        Some(error) => Err(error),
        None => Ok(written?),
    }
}

/// Loads the model, or the TorchScript module that replaces its weights.
fn open_scorer(args: &ScoreArgs, plugin: Option<&Path>) -> Result<(Plugin, Tokenizer, Box<dyn Scorer>)> {
    let Some(file) = &args.torchscript else {
        let LoadedModel { plugin, tokenizer, model, .. } = LoadedModel::load(&args.model, plugin)?;
        return Ok((plugin, tokenizer, Box::new(model)));
    };
    let libtorch = prepare(&args.model)?;
    let plugin = Plugin::load(plugin)?;
    let folder = Hub::from_env().model_folder(&args.model.policy.model)?;
    let tokenizer = plugin.tokenizer(&folder, args.model.policy.chat_template.as_deref())?;
    Ok((plugin, tokenizer, Box::new(TorchScriptPolicy::open(file, libtorch)?)))
}

/// Scores some records in one forward pass.
fn score(scorer: &dyn Scorer, plugin: &Plugin, dataset: &Dataset, samples: Range<usize>) -> Result<Vec<Score>> {
    let samples: Vec<usize> = samples.collect();
    let options = CollateOptions { layout: Layout::Packed, ..CollateOptions::default() };
    // Log-probs do not depend on the λ of a batch.
    let lambda = uniform_lambda(dataset.dimensions().len()).repeat(samples.len());
    let batch = dataset.batch(&samples, &lambda, &scorer.collate(options, dataset, &samples))?;
    let (_, log_probs) = scorer.log_probs(plugin, &batch, &LossOptions::default())?;
    let log_probs: Vec<f32> = Vec::try_from(log_probs.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)?;
    let num_tokens: Vec<i64> = Vec::try_from(&batch.sequence_num_tokens)?;
    let (mut log_probs, mut num_tokens) = (log_probs.into_iter(), num_tokens.into_iter());
    let scores = samples.iter().map(|&sample| {
        let info = &dataset.samples()[sample];
        Score {
            record: info.record_index,
            log_probs: log_probs.by_ref().take(info.num_responses).collect(),
            num_tokens: num_tokens.by_ref().take(info.num_responses).collect(),
        }
    });
    Ok(scores.collect())
}
