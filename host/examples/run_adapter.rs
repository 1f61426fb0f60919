//! Runs a λ-adapter forwards and backwards, to be compared with what PEFT computes.
//!
//! `run_adapter MODEL ADAPTER IN OUT` reads IN, safetensors with `input_ids`, `position_ids`, `prompt_ids` and
//! `sequence_ids`, [R, T] int64 as in a batch, `lambda`, [B, M], and optionally `hidden_gradient`, [R, T, H], the
//! gradient of a loss with respect to the hidden states. OUT gets `logits`, [R, T, V], and with a gradient those of the
//! adapter's parameters under their names in its folder. All is computed in the dtype of `lambda`, float32 or float64.

use std::path::Path;

use anyhow::{Context as _, bail};
use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, Model, ModelInputs};
use tch::Tensor;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, adapter, given, out] = arguments.as_slice() else {
        bail!("usage: run_adapter MODEL ADAPTER IN OUT");
    };
    let given = safetensors::read(Path::new(given))?;
    let read = |name: &str| given.get(name).with_context(|| format!("The input has no tensor `{name}`."));
    let lambda = read("lambda")?;
    let mut model = Model::load(Path::new(model), Libtorch::cpu(), lambda.f_kind()?)?;
    model.load_adapter(Path::new(adapter))?;
    model.unfreeze();

    let inputs = ModelInputs {
        input_ids: read("input_ids")?,
        position_ids: read("position_ids")?,
        prompt_ids: read("prompt_ids")?,
        sequence_ids: read("sequence_ids")?,
        lambda: Some(lambda),
    };
    let activations = model.forward(&inputs, &ForwardOptions::default())?;
    let logits = tch::no_grad(|| activations.hidden().f_linear(model.lm_head(), None::<Tensor>))?;
    let mut found = vec![("logits".to_owned(), logits)];
    if let Some(gradient) = given.get("hidden_gradient") {
        activations.backward(gradient)?;
        found.extend(model.trainable().into_iter().map(|(name, parameter)| (name, parameter.grad())));
    }
    safetensors::write(Path::new(out), found.iter().map(|(name, tensor)| (name.as_str(), tensor)), &[])?;
    Ok(())
}
