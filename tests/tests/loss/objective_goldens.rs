//! Every objective, compared with a PyTorch transcription of its published definition.
//!
//! The golden values come from `fixtures/golden/objectives/make_goldens.py`, computed in float64.

use std::collections::HashMap;
use std::fs;

use lambda_dpo_core::{
    Batch, Layout, LossInputs, LossOptions, Objective, Reduction, TokenizedResponse, TokenizedSample, Wants,
};
use ndarray::Array2;
use serde::Deserialize;
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    LAYOUTS, WANTS_BOTH, WANTS_SEQUENCES, batch_of, floats, gather, integers, loss_inputs, relative, relative_error,
    sequence_responses, spread,
};
use lambda_dpo_tests::fixture;

use super::sides::Side;

type Tensors = HashMap<String, Tensor>;

fn read(name: &str) -> Tensors {
    Tensor::read_safetensors(fixture(&format!("golden/objectives/{name}.safetensors"))).unwrap().into_iter().collect()
}

/// A case of `cases.json`.
#[derive(Deserialize)]
struct Case {
    name: String,
    objective: Objective,
    inputs: String,
    ranks: bool,
    reduction: Reduction,
    beta: f64,
    label_smoothing: f64,
    simpo_gamma: f64,
    sft_weight: f64,
}

impl Case {
    fn all() -> Vec<Self> {
        serde_json::from_slice(&fs::read(fixture("golden/objectives/cases.json")).unwrap()).unwrap()
    }

    fn options(&self, wants: Wants) -> LossOptions {
        LossOptions {
            objective: self.objective,
            reduction: self.reduction,
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            sft_weight: self.sft_weight,
            wants,
            ..LossOptions::default()
        }
    }
}

/// The samples of golden inputs.
fn samples(golden: &Tensors) -> Vec<TokenizedSample> {
    let mut prompts = integers(&golden["prompt_tokens"]).into_iter();
    let mut responses = integers(&golden["response_tokens"]).into_iter();
    let mut lengths = integers(&golden["response_lengths"]).into_iter();
    let take = |tokens: &mut std::vec::IntoIter<i64>, length: i64| tokens.by_ref().take(length as usize).collect();
    let pi_target = golden["pi_target"].where_scalarother(&golden["target_mask"].to_kind(Kind::Bool), f64::NAN);
    let offsets = integers(&golden["prompt_offsets"]);
    (0..)
        .zip(integers(&golden["prompt_lengths"]))
        .zip(offsets.windows(2))
        .map(|((record_index, length), bounds)| {
            let n = (bounds[1] - bounds[0]) as usize;
            let of_prompt = pi_target.narrow(1, bounds[0], n as i64);
            let of_prompt: Vec<f32> = floats(&of_prompt).into_iter().map(|p| p as f32).collect();
            let pi_target = Array2::from_shape_vec((of_prompt.len() / n, n), of_prompt).unwrap();
            let of_prompt = (0..n)
                .map(|response_index| {
                    let ids = take(&mut responses, lengths.next().unwrap());
                    TokenizedResponse { response_index, ids, is_target: None }
                })
                .collect();
            TokenizedSample::new(record_index, take(&mut prompts, length), of_prompt, pi_target)
        })
        .collect()
}

/// Sums the gradients [C, P, H] of a prompt's own positions over its responses into the first, because a packed row holds
/// them once.
fn by_prompt(grad: &Tensor, golden: &Tensors) -> Tensor {
    let sum = grad.copy();
    for (bounds, length) in integers(&golden["prompt_offsets"]).windows(2).zip(integers(&golden["prompt_lengths"])) {
        let mut shared = sum.narrow(0, bounds[0], bounds[1] - bounds[0]).narrow(1, 0, length);
        let total = shared.sum_dim_intlist(0i64, false, Kind::Double);
        let _ = shared.zero_();
        shared.get(0).copy_(&total);
    }
    sum
}

/// Largest relative error of a loss, and of a gradient against the largest of its tensor.
struct Tolerance {
    loss: f64,
    gradient: f64,
}

const FLOAT64: Tolerance = Tolerance { loss: 1e-12, gradient: 1e-12 };
/// A log-prob of this vocabulary is off by a few of its roundings (2⁻²⁴ = 6e-8), and a loss is a sum or a mean of some
/// of them.
const FLOAT32: Tolerance = Tolerance { loss: 1e-6, gradient: 1e-5 };

/// A batch of golden inputs with its tensors in one dtype.
struct Given<'a> {
    golden: &'a Tensors,
    batch: Batch,
    hidden: Tensor,
    lm_head: Tensor,
    sequence_log_probs: Tensor,
    reference: Tensor,
}

impl<'a> Given<'a> {
    fn new(golden: &'a Tensors, layout: Layout, reduction: Reduction, kind: Kind) -> Self {
        let batch = batch_of(&samples(golden), &floats(&golden["lambda"]), layout);
        let responses = Tensor::from_slice(&sequence_responses(&batch));
        let of_sequences = |name: &str| {
            let sums = &golden[name];
            let values = match reduction {
                Reduction::Sum => sums.shallow_clone(),
                Reduction::Mean => sums / &golden["response_lengths"],
            };
            values.index_select(0, &responses).to_kind(kind)
        };
        Self {
            hidden: spread(&golden["hidden"], &batch).to_kind(kind),
            lm_head: golden["lm_head"].to_kind(kind),
            sequence_log_probs: of_sequences("sequence_log_probs"),
            reference: of_sequences("reference_log_probs"),
            golden,
            batch,
        }
    }

    fn inputs(&self, case: &Case) -> LossInputs<'_> {
        let inputs = loss_inputs(&self.batch);
        LossInputs {
            reference_log_probs: case.objective.has_reference().then_some(&self.reference),
            ranks: if case.ranks { Some(&self.golden["ranks"]) } else { inputs.ranks },
            ..inputs
        }
    }

    fn of_hidden(&self, case: &Case) -> LossInputs<'_> {
        LossInputs { hidden: Some(&self.hidden), lm_head: Some(&self.lm_head), ..self.inputs(case) }
    }

    fn of_sequences(&self, case: &Case) -> LossInputs<'_> {
        LossInputs {
            sequence_log_probs: Some(&self.sequence_log_probs),
            target_positions: None,
            target_ids: None,
            target_sequences: None,
            ..self.inputs(case)
        }
    }

    /// Sums a gradient [S] over the sequences of each response.
    fn by_response(&self, grad: &Tensor) -> Tensor {
        let mut sum = Tensor::zeros_like(&self.golden["sequence_log_probs"]);
        let responses = Tensor::from_slice(&sequence_responses(&self.batch));
        let _ = sum.index_add_(0, &responses, &grad.to_kind(Kind::Double));
        sum
    }
}

fn check_goldens(kind: Kind, tolerance: &Tolerance) {
    let golden = read("golden");
    let inputs: HashMap<&str, Tensors> = ["pair", "ragged"].into_iter().map(|name| (name, read(name))).collect();
    let sides = Side::both();
    let cases = Case::all();
    assert!(cases.len() > 50);
    for case in &cases {
        let of_case = |name: &str| &golden[&format!("{}.{name}", case.name)];
        for layout in LAYOUTS {
            let given = Given::new(&inputs[case.inputs.as_str()], layout, case.reduction, kind);
            for (side_name, side) in &sides {
                let name = format!("{}, {layout:?}, {kind:?}, {side_name}", case.name);
                let check_loss = |found: f64, expected: &Tensor| {
                    let expected = expected.double_value(&[]);
                    assert!(relative(found, expected) < tolerance.loss, "{name}: loss {found}, expected {expected}");
                };
                let check_gradient = |what: &str, found: &Tensor, expected: &Tensor| {
                    let error = relative_error(found, expected);
                    assert!(error < tolerance.gradient, "{name}: gradient of {what} is off by {error:e}");
                };
                let found = side.run(&given.of_hidden(case), &case.options(WANTS_BOTH));
                check_loss(found.loss, of_case("loss"));
                check_gradient("lm_head", &found.lm_head.unwrap(), of_case("grad_lm_head"));
                let (grad, expected) = (found.hidden.unwrap(), of_case("grad_hidden"));
                let size = expected.size();
                let grad = gather(&grad, &given.batch, size[0], size[1]);
                check_gradient("hidden", &by_prompt(&grad, given.golden), &by_prompt(expected, given.golden));
                let has_sft_losses = case.sft_weight > 0.0 || case.objective == Objective::Orpo;
                assert_eq!(found.sft_losses.is_some(), has_sft_losses, "{name}");
                if let Some(sft_losses) = found.sft_losses {
                    for (found, expected) in sft_losses.into_iter().zip(floats(of_case("sft_losses"))) {
                        assert!(relative(found, expected) < tolerance.loss, "{name}: {found}, expected {expected}");
                    }
                }

                let found = side.run(&given.of_sequences(case), &case.options(WANTS_SEQUENCES));
                check_loss(found.loss, of_case("sequence_loss"));
                let grad = given.by_response(&found.sequence_log_probs.unwrap());
                check_gradient("sequence_log_probs", &grad, of_case("grad_sequence_log_probs"));
            }
        }
    }
}

#[test]
fn every_objective_has_the_loss_and_gradient_of_its_definition() {
    check_goldens(Kind::Double, &FLOAT64);
}

#[test]
fn every_objective_has_the_loss_and_gradient_of_its_definition_in_float32() {
    check_goldens(Kind::Float, &FLOAT32);
}
