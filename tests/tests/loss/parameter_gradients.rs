//! A step of the paper's Appendix B through decoder and loss: the loss and the gradient of every parameter, in all
//! layouts.
//!
//! The golden values come from `fixtures/golden/appendix_b/make_goldens.py`, computed in float64.

use std::collections::HashMap;

use lambda_dpo_core::{
    Batch, Layout, LossInputs, LossOptions, Reduction, TokenizedResponse, TokenizedSample, loss_forward,
};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{ForwardOptions, Model, ModelInputs};
use lambda_dpo_tests::batches::{
    LAYOUTS, WANTS_BOTH, batch_of, floats, integers, loss_inputs, loss_options, model_inputs, relative_error,
};
use lambda_dpo_tests::fixture;
use ndarray::Array2;
use tch::{Kind, Tensor};

type Tensors = HashMap<String, Tensor>;

fn read(name: &str) -> Tensors {
    Tensor::read_safetensors(fixture(&format!("golden/appendix_b/{name}.safetensors"))).unwrap().into_iter().collect()
}

fn samples(golden: &Tensors) -> Vec<TokenizedSample> {
    let mut prompts = integers(&golden["prompt_tokens"]).into_iter();
    let mut responses = integers(&golden["response_tokens"]).into_iter();
    let mut response_lengths = integers(&golden["response_lengths"]).into_iter();
    let take = |tokens: &mut std::vec::IntoIter<i64>, length: i64| tokens.by_ref().take(length as usize).collect();
    let pi = floats(&golden["pi_target"]);
    (0..)
        .zip(integers(&golden["prompt_lengths"]))
        .map(|(index, length)| {
            TokenizedSample::new(
                index as u64,
                take(&mut prompts, length),
                (0..4)
                    .map(|response_index| {
                        let ids = take(&mut responses, response_lengths.next().unwrap());
                        TokenizedResponse { response_index, ids, is_target: None }
                    })
                    .collect(),
                Array2::from_shape_fn((4, 4), |(k, i)| pi[(index * 4 + k) * 4 + i] as f32),
            )
        })
        .collect()
}

/// The reference's log-prob of each sequence of the batch.
fn reference(golden: &Tensors, batch: &Batch, kind: Kind) -> Tensor {
    let responses = &batch.sequence_prompts * 4 + &batch.sequence_responses;
    golden["reference_log_probs"].index_select(0, &responses).to_kind(kind)
}

/// Adds the gradients of a batch to the model's and returns the loss.
fn step(model: &Model, golden: &Tensors, samples: &[TokenizedSample], layout: Layout, checkpointing: bool) -> f64 {
    let lambda = floats(&golden["lambda"]).repeat(samples.len());
    let batch = batch_of(samples, &lambda, layout);
    let inputs = ModelInputs { lambda: None, ..model_inputs(&batch) };
    let activations = model.forward(&inputs, &ForwardOptions { checkpointing, dropout_seed: None }).unwrap();
    let accumulated = if model.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let reference = reference(golden, &batch, accumulated);
    let inputs = LossInputs {
        hidden: Some(activations.hidden()),
        lm_head: Some(model.lm_head()),
        reference_log_probs: Some(&reference),
        ..loss_inputs(&batch)
    };
    let options = LossOptions {
        beta: golden["beta"].double_value(&[]),
        paper_exact: true,
        ..loss_options(Reduction::Mean, WANTS_BOTH)
    };
    let (outputs, context) = loss_forward(&inputs, &options).unwrap();
    let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
    activations.backward(&gradients.hidden.unwrap()).unwrap();
    model.accumulate_lm_head_grad(gradients.lm_head.unwrap()).unwrap();
    outputs.loss.double_value(&[])
}

/// Largest relative error of the loss, and of a gradient against the largest of its tensor.
struct Tolerance {
    loss: f64,
    gradient: f64,
}

/// All is float64 but the angles of the rotary embedding, which are float32 as in Transformers: those of 24 positions are off
/// by up to 24 · 2⁻²⁴ = 1.4e-6, and gradients by a few times that (4.1e-6 was seen).
const FLOAT64: Tolerance = Tolerance { loss: 1e-6, gradient: 1e-5 };

/// A weight's gradient sums 16 · 24 positions that have each been rounded some 100 times on the way through two layers and
/// back. Independent roundings add up to √(16 · 24 · 100) · 2⁻²⁴ = 1.2e-5; the largest of thousands of entries has four
/// times that. Which roundings are made depends on processor and threads: 1.01e-5 was seen.
const FLOAT32: Tolerance = Tolerance { loss: 1e-6, gradient: 5e-5 };

fn check_gradients(kind: Kind, tolerance: &Tolerance) {
    let (golden, expected) = (read("golden"), read("gradients"));
    let samples = samples(&golden);
    let loss = golden["model_loss"].double_value(&[]);
    for layout in LAYOUTS {
        for checkpointing in [false, true] {
            let case = format!("{kind:?}, {layout:?}, checkpointing {checkpointing}");
            let model = Model::load(&fixture("golden/appendix_b/model"), Libtorch::cpu(), kind).unwrap();
            let found = step(&model, &golden, &samples, layout, checkpointing);
            assert!((found / loss - 1.0).abs() < tolerance.loss, "{case}: loss {found}, expected {loss}");
            let trainable = model.trainable();
            assert_eq!(trainable.len(), expected.len());
            for (name, parameter) in &trainable {
                let error = relative_error(&parameter.grad(), &expected[name]);
                assert!(error < tolerance.gradient, "{case}: {name} is off by {error:e}");
            }
        }
    }
}

#[test]
fn every_parameter_has_the_papers_gradient() {
    check_gradients(Kind::Double, &FLOAT64);
}

#[test]
fn every_parameter_has_the_papers_gradient_in_float32() {
    check_gradients(Kind::Float, &FLOAT32);
}

/// The loss in bfloat16 differs from that in float32 only as far as 8 bits of mantissa explain.
#[test]
fn bfloat16_gives_the_float32_loss() {
    let golden = read("golden");
    let samples = samples(&golden);
    let folder = fixture("golden/appendix_b/model");
    for layout in LAYOUTS {
        for checkpointing in [false, true] {
            let loss_in = |kind| {
                let model = Model::load(&folder, Libtorch::cpu(), kind).unwrap();
                step(&model, &golden, &samples, layout, checkpointing)
            };
            let error = (loss_in(Kind::BFloat16) / loss_in(Kind::Float) - 1.0).abs();
            assert!(error < 2e-3, "{layout:?}, checkpointing {checkpointing}: off by {error:e}");
        }
    }
}
