//! Only log-probs and their backward, through the plugin: from hidden states and LM head to gradients.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch;
use lambda_dpo_host::plugin::{LossInputs, LossOptions, Objective, Plugin, Reduction, Wants};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::serving::{Command, serve};

/// Inputs read from a file of `hidden` [K, H], `lm_head` [V, H] and `target_ids` `[K]`; every position is a target.
struct LogProbs {
    plugin: Plugin,
    hidden: Tensor,
    lm_head: Tensor,
    target_ids: Tensor,
    positions: Tensor,
    sequences: Tensor,
    options: LossOptions,
}

/// Answers `step` with the loss and the norms of the gradients.
///
/// # Errors
///
/// Returns an error if the file lacks a tensor or a step fails.
pub fn run(file: &Path, trains_head: bool) -> Result<()> {
    libtorch::prepare("cpu")?;
    let mut log_probs = Some(LogProbs::open(file, trains_head)?);
    serve(|command| match command {
        Command::Drop => {
            log_probs = None;
            Ok(None)
        }
        Command::Word("step") => log_probs.as_ref().map(LogProbs::step).transpose(),
        Command::Word(_) => Ok(None),
    })
}

impl LogProbs {
    fn open(file: &Path, trains_head: bool) -> Result<Self> {
        let mut tensors = safetensors::read(file)?;
        let mut take =
            |name: &str| tensors.swap_remove(name).with_context(|| format!("{} lacks {name}", file.display()));
        let target_ids = take("target_ids")?;
        let num_targets = target_ids.size1()?;
        Ok(Self {
            plugin: Plugin::load(None)?,
            hidden: take("hidden")?.f_unsqueeze(0)?,
            lm_head: take("lm_head")?,
            positions: Tensor::f_arange(num_targets, (Kind::Int64, Device::Cpu))?,
            sequences: Tensor::f_zeros([num_targets], (Kind::Int64, Device::Cpu))?,
            target_ids,
            options: LossOptions {
                objective: Objective::Sft,
                reduction: Reduction::Sum,
                beta: 1.0,
                wants: Wants { hidden: true, lm_head: trains_head, ..Wants::default() },
                // The budget is the program's default.
                ..LossOptions::default()
            },
        })
    }

    fn step(&self) -> Result<Value> {
        let inputs = LossInputs {
            hidden: Some(&self.hidden),
            lm_head: Some(&self.lm_head),
            target_positions: Some(&self.positions),
            target_ids: Some(&self.target_ids),
            target_sequences: Some(&self.sequences),
            num_sequences: 1,
            ..LossInputs::default()
        };
        let started = Instant::now();
        let (outputs, context) = self.plugin.loss_forward(&inputs, &self.options)?;
        let gradients = context.context("the loss kept nothing for its backward")?.backward(&inputs, 1.0)?;
        let seconds = started.elapsed().as_secs_f64();
        let norm = |gradient: &Option<Tensor>| -> Result<Option<f64>> {
            gradient.as_ref().map(|gradient| Ok(gradient.f_norm()?.f_double_value(&[])?)).transpose()
        };
        Ok(json!({
            "seconds": seconds,
            "loss": outputs.loss.f_double_value(&[])?,
            "grad_hidden_norm": norm(&gradients.hidden)?,
            "grad_head_norm": norm(&gradients.lm_head)?,
        }))
    }
}
