//! The training gradient of every layout on a device, compared with one computed in float64 on the CPU.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lambda_dpo_core::{Batch, CollateOptions, Layout, TokenizedResponse, TokenizedSample, collate};
use lambda_dpo_host::libtorch::{self, Libtorch};
use lambda_dpo_host::model::{ForwardOptions, Model, ModelInputs};
use lambda_dpo_host::plugin::{LossInputs, LossOptions, Plugin, Reduction, Wants};
use lambda_dpo_tests::batches::model_inputs;
use ndarray::Array2;
use serde_json::json;
use tch::{Device, Kind, Tensor};

const VOCAB_SIZE: i64 = 131;
const NUM_DIMENSIONS: usize = 2;

/// Prints a line of JSON for each case with the relative errors of the loss and of all gradients together.
///
/// # Errors
///
/// Returns an error if the device does not exist, or if model or plugin fail.
pub fn run(device: &str) -> Result<()> {
    let libtorch = libtorch::prepare(device)?;
    let folder = tempfile::tempdir()?;
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB_SIZE, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": false,
        "hidden_act": "silu"
    });
    fs::write(folder.path().join("config.json"), config.to_string())?;
    let plugin = Plugin::load(None)?;

    let mut cases = vec![("two prompts", vec![sample(0, 20, &[9, 31, 4]), sample(1, 3, &[12, 30])])];
    if libtorch.device().is_cuda() {
        // Long enough that responses attend one by one on CUDA; on a CPU shorter ones do, which the tests cover.
        cases.push(("long", vec![sample(0, 1000, &[1500, 1500, 1500, 1500])]));
    }
    for (case, samples) in cases {
        let (expected_loss, expected) =
            gradients(folder.path(), &plugin, &samples, Layout::Rows, (Kind::Double, Libtorch::cpu()))?;
        for kind in [Kind::Float, Kind::BFloat16] {
            for layout in [Layout::Packed, Layout::Rows, Layout::Expanded] {
                let (loss, found) = gradients(folder.path(), &plugin, &samples, layout, (kind, libtorch))?;
                println!(
                    "{}",
                    json!({
                        "case": case,
                        "layout": format!("{layout:?}").to_lowercase(),
                        "dtype": format!("{kind:?}").to_lowercase(),
                        "loss_error": ((loss - expected_loss) / expected_loss).abs(),
                        "gradient_error": relative_error(&found, &expected)?,
                    })
                );
            }
        }
    }
    Ok(())
}

/// A prompt with responses of the given lengths, rated in two dimensions.
fn sample(record_index: u64, prompt: usize, responses: &[usize]) -> TokenizedSample {
    let ids = |seed: usize, length: usize| (0..length).map(|at| ((at * 37 + seed * 101) % 128) as i64 + 2).collect();
    let response = |(at, length): (usize, &usize)| TokenizedResponse {
        response_index: at,
        ids: ids(at + 1, *length),
        is_target: None,
    };
    let total = (responses.len() * (responses.len() + 1) / 2) as f32;
    TokenizedSample::new(
        record_index,
        ids(0, prompt),
        responses.iter().enumerate().map(response).collect(),
        Array2::from_shape_fn((NUM_DIMENSIONS, responses.len()), |(dimension, at)| {
            let rank = if dimension == 0 { at + 1 } else { responses.len() - at };
            rank as f32 / total
        }),
    )
}

/// The loss and all gradients, in the order of the model's parameters, as float64 on the CPU.
fn gradients(
    folder: &Path,
    plugin: &Plugin,
    samples: &[TokenizedSample],
    layout: Layout,
    (kind, libtorch): (Kind, Libtorch),
) -> Result<(f64, Vec<Tensor>)> {
    let samples: Vec<_> = samples.iter().collect();
    let options = CollateOptions { layout, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: 0 };
    let batch = collate(&samples, &[0.3, 0.7].repeat(samples.len()), &options)?;
    let model = Model::random(folder, libtorch, kind, 7)?;
    let activations =
        model.forward(&ModelInputs { lambda: None, ..model_inputs(&batch) }, &ForwardOptions::default())?;
    let inputs = loss_inputs(&batch, activations.hidden(), model.lm_head());
    let options = LossOptions {
        reduction: Reduction::Mean,
        beta: 5.0,
        logits_budget_bytes: 1 << 20,
        wants: Wants { hidden: true, lm_head: true, ..Wants::default() },
        ..LossOptions::default()
    };
    let (outputs, context) = plugin.loss_forward(&inputs, &options)?;
    let of_loss = context.context("the loss kept nothing for its backward")?.backward(&inputs, 1.0)?;
    model.accumulate_lm_head_grad(of_loss.lm_head.context("no gradient of the LM head")?)?;
    activations.backward(&of_loss.hidden.context("no gradient of the hidden states")?)?;
    let metrics = outputs.preferences.context("the listwise loss has no metrics")?;
    for output in [&outputs.loss, &outputs.sequence_log_probs, &metrics.rewards, &metrics.margins] {
        ensure!(output.device() == Device::Cpu, "an output of the loss is on {:?}", output.device());
    }
    let loss = outputs.loss.f_double_value(&[])?;
    let widened = model
        .trainable()
        .into_iter()
        .map(|(_, parameter)| Ok(parameter.f_grad()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?));
    Ok((loss, widened.collect::<Result<_>>()?))
}

fn loss_inputs<'a>(batch: &'a Batch, hidden: &'a Tensor, lm_head: &'a Tensor) -> LossInputs<'a> {
    LossInputs {
        hidden: Some(hidden),
        lm_head: Some(lm_head),
        target_positions: Some(&batch.target_positions),
        target_ids: Some(&batch.target_ids),
        target_sequences: Some(&batch.target_sequences),
        num_sequences: batch.sequence_num_tokens.size()[0],
        prompt_offsets: Some(&batch.prompt_offsets),
        sequence_index: Some(&batch.sequence_index),
        pi_target: Some(&batch.pi_target),
        target_mask: Some(&batch.target_mask),
        ranks: Some(&batch.ranks),
        lambda: Some(&batch.lambda),
        ..LossInputs::default()
    }
}

/// ‖found − expected‖ / ‖expected‖ over all tensors together.
fn relative_error(found: &[Tensor], expected: &[Tensor]) -> Result<f64> {
    let (mut difference, mut whole) = (0.0, 0.0);
    for (found, expected) in found.iter().zip(expected) {
        difference += found.f_sub(expected)?.f_norm()?.f_double_value(&[])?.powi(2);
        whole += expected.f_norm()?.f_double_value(&[])?.powi(2);
    }
    Ok((difference / whole).sqrt())
}
