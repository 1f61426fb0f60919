//! Writes a model, an adapter and their logits, to be compared with those that `transformers` and `peft` compute.
//!
//! `write_adapter MODEL OUT [bfloat16]` adds a LoRA adapter with random values to the model of the folder MODEL and
//! writes OUT/adapter, OUT/model (the model without the adapter), OUT/merged (the adapter merged into it),
//! OUT/lambda_adapter (a λ-adapter over the dimensions a, b and c) and OUT/values.safetensors: `input_ids` [1, T], and
//! `base_logits`, `adapter_logits`, `merged_logits` and `lambda_logits` (at λ = 0.5, 0.2, 0.3), [1, T, V] float32.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{LambdaParts, LoraConfig, Model, ModelInputs, TargetModules};
use tch::{Device, Kind, Tensor};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, out, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: write_adapter MODEL OUT [bfloat16]");
    };
    let kind = if rest.first().is_some_and(|word| word == "bfloat16") { Kind::BFloat16 } else { Kind::Float };
    let (source, out) = (PathBuf::from(source), PathBuf::from(out));
    std::fs::create_dir_all(&out).with_context(|| format!("Could not make the folder {}.", out.display()))?;

    let input_ids = Tensor::f_arange_start(3, 27, (Kind::Int64, Device::Cpu))?.f_view([1, -1])?;
    let mut model = Model::load(&source, Libtorch::cpu(), kind)?;
    let base_logits = logits(&model, &input_ids)?;
    model.save(&out.join("model"), &source)?;

    let config = LoraConfig {
        rank: 4,
        alpha: 6.0,
        dropout: 0.05,
        use_rslora: false,
        target_modules: TargetModules::AllLinear,
        lambda: None,
    };
    model.add_lora(&config, 11)?;
    fill(&model)?;
    let adapter_logits = logits(&model, &input_ids)?;
    model.save_adapter(&out.join("adapter"), &source.display().to_string())?;
    model.merge_adapter()?;
    let merged_logits = logits(&model, &input_ids)?;
    model.save(&out.join("merged"), &source)?;

    let parts = LambdaParts { dimensions: ["a", "b", "c"].map(str::to_owned).to_vec(), rank: 2 };
    let mut model = Model::load(&source, Libtorch::cpu(), kind)?;
    model.add_lora(&LoraConfig { rank: 1, lambda: Some(parts), ..config }, 12)?;
    fill(&model)?;
    model.save_adapter(&out.join("lambda_adapter"), &source.display().to_string())?;
    model.fix_lambda(&[0.5, 0.2, 0.3])?;
    let lambda_logits = logits(&model, &input_ids)?;

    let values = [
        ("input_ids", &input_ids),
        ("base_logits", &base_logits),
        ("adapter_logits", &adapter_logits),
        ("merged_logits", &merged_logits),
        ("lambda_logits", &lambda_logits),
    ];
    safetensors::write(Path::new(&out.join("values.safetensors")), values, &[])?;
    Ok(())
}

/// Fills the matrices B, which are initially zero, with random values.
fn fill(model: &Model) -> anyhow::Result<()> {
    tch::manual_seed(11);
    for (name, parameter) in model.trainable() {
        if name.ends_with("lora_B.weight") {
            let _ = tch::no_grad(|| parameter.detach().f_normal_(0.0, 0.2))?;
        }
    }
    Ok(())
}

/// Computes logits, [1, T, V] float32.
fn logits(model: &Model, input_ids: &Tensor) -> anyhow::Result<Tensor> {
    let zeros = input_ids.f_zeros_like()?;
    let position_ids = Tensor::f_arange(input_ids.size()[1], (Kind::Int64, Device::Cpu))?.f_view([1, -1])?;
    let inputs =
        ModelInputs { input_ids, position_ids: &position_ids, prompt_ids: &zeros, sequence_ids: &zeros, lambda: None };
    let hidden = model.hidden(&inputs)?;
    Ok(tch::no_grad(|| hidden.f_linear(model.lm_head(), None::<Tensor>))?.f_to_kind(Kind::Float)?)
}
