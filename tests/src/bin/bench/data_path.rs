//! From records to batches: conversion and collation separately, and the whole path through the plugin.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use lambda_dpo_core as core;
use lambda_dpo_core::{Batch, Format, Layout, MissingRating, SampleReader, TokenizedSample};
use lambda_dpo_host::libtorch;
use lambda_dpo_host::plugin::{self, Plugin};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::serving::{Command, serve};

/// Prompts in a batch.
const BATCH_SIZE: usize = 8;
const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];

/// A file of records, converted as in the paper.
struct DataPath {
    plugin: Plugin,
    records: PathBuf,
    model: PathBuf,
    /// All samples of the file, for measuring only collation.
    tokenized: Vec<TokenizedSample>,
}

/// Answers `without-tokenising`, `expanded` (the same, collated in the paper's layout) and `with-tokenising`.
///
/// # Errors
///
/// Returns an error if the records or the tokenizer do not load.
pub fn run(records: &Path, model: &Path) -> Result<()> {
    libtorch::prepare("cpu")?;
    let data_path = DataPath::open(records, model)?;
    serve(|command| match command {
        Command::Word("without-tokenising") => data_path.without_tokenising(Layout::Packed).map(Some),
        Command::Word("expanded") => data_path.without_tokenising(Layout::Expanded).map(Some),
        Command::Word("with-tokenising") => data_path.with_tokenising().map(Some),
        _ => Ok(None),
    })
}

impl DataPath {
    fn open(records: &Path, model: &Path) -> Result<Self> {
        let tokenizer = core::Tokenizer::open(model, None)?;
        let options = core::TokenizeOptions::default();
        let mut tokenized = Vec::new();
        for sample in reader(records)? {
            tokenized.extend(tokenizer.tokenize(&sample?, &options)?.samples);
        }
        let (records, model) = (records.to_path_buf(), model.to_path_buf());
        Ok(Self { plugin: Plugin::load(None)?, records, model, tokenized })
    }

    fn without_tokenising(&self, layout: Layout) -> Result<Value> {
        let started = Instant::now();
        let samples = reader(&self.records)?.collect::<core::Result<Vec<_>>>()?;
        let convert_seconds = started.elapsed().as_secs_f64();
        drop(samples);
        let (collate_seconds, first) = self.collate(layout)?;
        Ok(json!({
            "seconds": convert_seconds + collate_seconds,
            "convert_seconds": convert_seconds,
            "collate_seconds": collate_seconds,
            "digest": if layout == Layout::Expanded { digest(&first)? } else { Value::Null },
        }))
    }

    /// Collates all batches; returns the seconds and the first batch.
    fn collate(&self, layout: Layout) -> Result<(f64, Batch)> {
        let options = core::CollateOptions { layout, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 0 };
        let lambda = vec![0.25; BATCH_SIZE * DIMENSIONS.len()];
        let mut first = None;
        let started = Instant::now();
        for samples in self.tokenized.chunks(BATCH_SIZE) {
            let samples: Vec<_> = samples.iter().collect();
            let batch = core::collate(&samples, &lambda[..samples.len() * DIMENSIONS.len()], &options)?;
            first.get_or_insert(batch);
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok((seconds, first.context("there are no records")?))
    }

    /// Opens the records through the plugin and requests every batch once.
    fn with_tokenising(&self) -> Result<Value> {
        let options = plugin::DatasetOptions {
            convert: plugin::ConvertOptions {
                dimensions: Some(DIMENSIONS.map(String::from).to_vec()),
                missing_rating: Some(1.0),
                ..plugin::ConvertOptions::default()
            },
            tokenize: plugin::TokenizeOptions::default(),
            cache_dir: None,
        };
        let collate = plugin::CollateOptions { layout: plugin::Layout::Packed, max_tokens: None, pad_token_id: 0 };
        let lambda = vec![0.25; BATCH_SIZE * DIMENSIONS.len()];
        let started = Instant::now();
        let tokenizer = self.plugin.tokenizer(&self.model, None)?;
        let files = [self.records.clone()];
        let progress = &mut |_, _| ControlFlow::Continue(());
        let dataset = self.plugin.dataset(&files, &tokenizer, &options, progress)?;
        let indices: Vec<usize> = (0..dataset.len()).collect();
        for indices in indices.chunks(BATCH_SIZE) {
            dataset.batch(indices, &lambda[..indices.len() * DIMENSIONS.len()], &collate)?;
        }
        Ok(json!({ "seconds": started.elapsed().as_secs_f64() }))
    }
}

fn reader(records: &Path) -> Result<SampleReader> {
    let options = core::ConvertOptions {
        dimensions: Some(DIMENSIONS.map(String::from).to_vec()),
        missing_rating: MissingRating::Value(1.0),
        ..core::ConvertOptions::new(Format::UltraFeedback)
    };
    Ok(SampleReader::open(&[records.to_path_buf()], options)?)
}

/// A digest for comparing the expanded batch with the other side's: sums of entries weighted by position.
fn digest(batch: &Batch) -> Result<Value> {
    let weighted = |tensor: &Tensor, kind: Kind| -> Result<f64> {
        let flat = tensor.f_reshape([-1])?.f_to_kind(kind)?;
        let weights = Tensor::f_arange(flat.size1()?, (kind, Device::Cpu))?.f_fmod(9973.0)?.f_add_scalar(1.0)?;
        Ok(flat.f_mul(&weights)?.f_sum(kind)?.f_double_value(&[])?)
    };
    // From [M, C] to the paper's order: prompt, dimension, response.
    let pi_target = batch.pi_target.f_reshape([4, -1, 4])?.f_permute([1, 0, 2])?;
    Ok(json!({
        "input_ids": weighted(&batch.input_ids, Kind::Int64)?,
        "attention_mask": weighted(&batch.attention_mask, Kind::Int64)?,
        "labels": weighted(&batch.labels, Kind::Int64)?,
        "pi_target": weighted(&pi_target, Kind::Double)?,
    }))
}
