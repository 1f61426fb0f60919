//! `lambda-dpo export`: a policy as one set of weights, in a format for other programs.

use std::path::Path;

use anyhow::{Result, ensure};
use tch::Kind;

use crate::cli::{ExportArgs, ExportFormat};
use crate::console::say;
use crate::export::{self, Destination, loras, onnx, torchscript};
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
        ExportFormat::Peft => {
            let mut model = adapter(args, "peft", &folder)?;
            model.fold_lambda()?;
            model.save_adapter(out.path(), &base_name(args)?)?;
        }
        ExportFormat::Loras => {
            let lambda = args.policy.lambda.as_ref();
            ensure!(
                lambda.is_none(),
                "--to loras writes the adapter for every λ: leave --lambda out, or export --to peft"
            );
            let model = adapter(args, "loras", &folder)?;
            let is_split = model.adapter_dimensions().is_some();
            ensure!(
                is_split,
                "--to loras splits an adapter of kind \"lambda_lora\", which this one is not: use --to peft"
            );
            loras::write(&model, out.path(), &base_name(args)?)?;
        }
        ExportFormat::Onnx => onnx::write(&policy()?, &folder, out.path(), onnx::MAX_INLINE_BYTES)?,
        ExportFormat::TorchScript => torchscript::write(&policy()?, &folder, out.path())?,
    }
    out.finish(args.policy.chat_template.as_deref())?;
    let what = match args.to {
        ExportFormat::Peft => "adapter",
        ExportFormat::Loras => "adapters",
        _ => "policy",
    };
    say(&format!("{what} written to {}", args.out.display()));
    Ok(())
}

/// Loads the model to write only its adapter, which is in float32.
fn adapter(args: &ExportArgs, to: &str, folder: &Path) -> Result<Model> {
    ensure!(args.policy.adapter.is_some(), "--to {to} writes an adapter: pass one with --adapter DIR");
    ensure!(args.dtype.is_none(), "--to {to} always writes the adapter in float32: leave --dtype out");
    let model = load_policy(&args.policy, folder, Libtorch::cpu(), Kind::Float)?;
    let adapter = model.trainable();
    export::check_finite(adapter.iter().map(|(name, tensor)| (name, tensor)))?;
    Ok(model)
}

/// Returns the base model's folder or hub name as an adapter names it.
fn base_name(args: &ExportArgs) -> Result<String> {
    let base = &args.policy.model;
    let base = if base.is_dir() { std::path::absolute(base)? } else { base.clone() };
    Ok(base.display().to_string())
}

/// Loads the weights in the dtype to write, with the adapter merged.
///
/// The adapter is merged in float32, unless the weights are stored in the dtype to write: then each value is rounded
/// once either way. Weights in 4 bits are dequantised to float32, with or without an adapter.
fn policy(args: &ExportArgs, folder: &Path) -> Result<Model> {
    let config = ModelConfig::load(folder)?;
    let stored = config.dtype.unwrap_or(Kind::Float);
    let kind = match args.dtype {
        Some(dtype) => dtype.into(),
        None if args.to == ExportFormat::Onnx => Kind::Float,
        None => stored,
    };
    let is_quantized = config.is_nf4 || args.policy.quantize.is_some();
    let merges_wider = is_quantized || args.policy.adapter.is_some() && stored != kind;
    let loaded = if merges_wider { Kind::Float } else { kind };
    let mut model = load_policy(&args.policy, folder, Libtorch::cpu(), loaded)?;
    model.freeze();
    model.merge_adapter()?;
    let model = model.into_kind(kind)?;
    export::check_finite(model.named_parameters())?;
    Ok(model)
}
