//! `lambda-dpo export`: a policy as one set of weights, in a format for other programs.

use std::path::Path;

use anyhow::{Result, ensure};
use tch::Kind;

use crate::cli::{ExportArgs, ExportFormat};
use crate::console::say;
use crate::export::{self, Destination, onnx, torchscript};
use crate::files::hub::Hub;
use crate::libtorch::Libtorch;
use crate::model::{Model, ModelConfig};

use super::loaded_model::load_policy;

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let out = Destination::begin(&args.out)?;
    let folder = Hub::from_env().model_folder(&args.policy.model)?;
    let policy = || policy(args, &folder);
    match args.to {
        ExportFormat::Hf => policy()?.save(out.path(), &folder)?,
        ExportFormat::Peft => write_peft(args, &folder, out.path())?,
        ExportFormat::Onnx => onnx::write(&policy()?, &folder, out.path(), onnx::MAX_INLINE_BYTES)?,
        ExportFormat::TorchScript => torchscript::write(&policy()?, &folder, out.path())?,
    }
    out.finish(args.policy.chat_template.as_deref())?;
    let what = if args.to == ExportFormat::Peft { "adapter" } else { "policy" };
    say(&format!("{what} written to {}", args.out.display()));
    Ok(())
}

/// Writes only the adapter; a λ-adapter as a LoRA at its λ.
fn write_peft(args: &ExportArgs, folder: &Path, out: &Path) -> Result<()> {
    ensure!(args.policy.adapter.is_some(), "--to peft writes an adapter: pass one with --adapter DIR");
    ensure!(args.dtype.is_none(), "--to peft always writes the adapter in float32: leave --dtype out");
    let mut model = load_policy(&args.policy, folder, Libtorch::cpu(), Kind::Float)?;
    let adapter = model.trainable();
    export::check_finite(adapter.iter().map(|(name, tensor)| (name, tensor)))?;
    model.fold_lambda()?;
    let base = &args.policy.model;
    let base = if base.is_dir() { std::path::absolute(base)? } else { base.clone() };
    Ok(model.save_adapter(out, &base.display().to_string())?)
}

/// Loads the weights in the dtype to write, with the adapter merged.
///
/// The adapter is merged in float32, unless the weights are stored in the dtype to write: then each value is rounded
/// once either way.
fn policy(args: &ExportArgs, folder: &Path) -> Result<Model> {
    let stored = ModelConfig::load(folder)?.dtype.unwrap_or(Kind::Float);
    let kind = match args.dtype {
        Some(dtype) => dtype.into(),
        None if args.to == ExportFormat::Onnx => Kind::Float,
        None => stored,
    };
    let loaded = if args.policy.adapter.is_some() && stored != kind { Kind::Float } else { kind };
    let mut model = load_policy(&args.policy, folder, Libtorch::cpu(), loaded)?;
    model.freeze();
    if model.has_adapter() {
        model.merge_adapter()?;
    }
    let model = model.into_kind(kind)?;
    export::check_finite(model.named_parameters())?;
    Ok(model)
}
