//! `lambda-dpo export`: a policy as one set of weights, in a format that other programs read.

use std::path::Path;

use anyhow::Result;
use tch::Kind;

use crate::cli::{ExportArgs, ExportFormat};
use crate::export::{self, Destination, onnx, torchscript};
use crate::hub::Hub;
use crate::libtorch;
use crate::model::{Model, ModelConfig};
use crate::train::progress::say;

pub(super) fn run(args: &ExportArgs) -> Result<()> {
    let out = Destination::begin(&args.out)?;
    libtorch::prepare("cpu")?;
    let folder = Hub::from_env().model_folder(&args.model)?;
    let model = policy(args, &folder)?;
    match args.to {
        ExportFormat::Hf => model.save(out.path(), &folder)?,
        ExportFormat::Onnx => onnx::write(&model, &folder, out.path(), onnx::MAX_INLINE_BYTES)?,
        ExportFormat::TorchScript => torchscript::write(&model, &folder, out.path())?,
    }
    out.finish(args.chat_template.as_deref())?;
    say(&format!("the policy stands in {}", args.out.display()));
    Ok(())
}

/// The weights to write, the adapter among them, in the dtype to write.
///
/// Folding is done in float32, unless the weights are stored as they will be written: then each value is rounded once
/// either way.
fn policy(args: &ExportArgs, folder: &Path) -> Result<Model> {
    let stored = ModelConfig::load(folder)?.dtype.unwrap_or(Kind::Float);
    let kind = match (args.dtype, args.to) {
        (Some(dtype), _) => dtype.kind(),
        (None, ExportFormat::Hf | ExportFormat::TorchScript) => stored,
        (None, ExportFormat::Onnx) => Kind::Float,
    };
    let loaded = if args.adapter.is_some() && stored != kind { Kind::Float } else { kind };
    let mut model = Model::load(folder, tch::Device::Cpu, loaded)?;
    model.freeze();
    if let Some(adapter) = &args.adapter {
        model.load_adapter(adapter)?;
        model.merge_adapter()?;
    }
    let model = model.into_kind(kind)?;
    export::check_range(&model)?;
    Ok(model)
}
