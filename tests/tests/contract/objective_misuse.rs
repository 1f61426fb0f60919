//! Misuse of the objectives: options that they do not have, a reference or lengths that do not fit.

use lambda_dpo_abi as abi;
use lambda_dpo_host::plugin::{LossInputs, LossOptions, Objective, Plugin, PluginError, Reduction, Wants};
use lambda_dpo_tests::batches::{Problem, exported};
use lambda_dpo_tests::plugin_library;
use lambda_dpo_tests::table::{api, checked, sized};
use tch::{Device, Kind, Tensor};

use crate::losses::changed;

/// Calls the loss, which must fail with a message that begins with `sentence`.
#[track_caller]
fn refused(inputs: &LossInputs, options: LossOptions, sentence: &str) {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    match plugin.loss_forward(inputs, &options) {
        Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message }) => {
            assert!(message.starts_with(sentence), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

fn options(objective: Objective) -> LossOptions {
    LossOptions { objective, reduction: objective.default_reduction(), beta: 1.0, ..LossOptions::default() }
}

#[test]
fn options_of_other_objectives() {
    let problem = Problem::random(2, Kind::Float);
    let inputs = LossInputs { reference_log_probs: None, ..exported(&problem.inputs()) };
    for (objective, change, sentence) in [
        (Objective::Ipo, "label_smoothing", "label_smoothing is 0.3, but only sigmoid has it, not ipo"),
        (Objective::Listwise, "simpo_gamma", "simpo_gamma is 0.3, but only simpo has it, not listwise"),
        (Objective::Sft, "sft_weight", "sft_weight adds a likelihood to a preference objective"),
        (Objective::Hinge, "paper_exact", "paper_exact is 1, but only listwise has it, not hinge"),
        (Objective::Simpo, "sum", "simpo is defined on means over tokens"),
        (Objective::Orpo, "sum", "orpo is defined on means over tokens"),
    ] {
        let mut options = options(objective);
        match change {
            "label_smoothing" => options.label_smoothing = 0.3,
            "simpo_gamma" => options.simpo_gamma = 0.3,
            "sft_weight" => options.sft_weight = 0.3,
            "paper_exact" => options.paper_exact = true,
            _ => options.reduction = Reduction::Sum,
        }
        refused(&inputs, options, sentence);
    }
}

#[test]
fn options_out_of_range() {
    let problem = Problem::random(2, Kind::Float);
    let inputs = LossInputs { reference_log_probs: None, ..exported(&problem.inputs()) };
    for wrong in [-0.1, f64::NAN, f64::INFINITY] {
        let smoothed = LossOptions { label_smoothing: wrong, ..options(Objective::Sigmoid) };
        refused(&inputs, smoothed, "label_smoothing is ");
        refused(&inputs, LossOptions { simpo_gamma: wrong, ..options(Objective::Simpo) }, "simpo_gamma is ");
        refused(&inputs, LossOptions { sft_weight: wrong, ..options(Objective::Listwise) }, "sft_weight is ");
    }
    refused(&inputs, LossOptions { label_smoothing: 0.5, ..options(Objective::Sigmoid) }, "label_smoothing is 0.5");
    // SAFETY: both structs outlive the call, which fails before it reads a tensor.
    let (status, message) = unsafe {
        let unknown = abi::LossOptions { objective: 8, beta: 1.0, ..sized() };
        let (inputs, mut outputs) = (sized::<abi::LossInputs>(), sized::<abi::LossOutputs>());
        checked(|e| (api().loss_forward)(&inputs, &unknown, &mut outputs, std::ptr::null_mut(), e)).unwrap_err()
    };
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(message, "`objective` is 8, expected 0, 1, 2, 3, 4, 5, 6 or 7");
}

#[test]
fn a_reference_where_there_is_none() {
    let problem = Problem::random(2, Kind::Float);
    let inputs = exported(&problem.inputs());
    for objective in [Objective::Simpo, Objective::Orpo, Objective::Sft] {
        let sentence = format!("reference_log_probs was given, but {objective} has no reference");
        refused(&inputs, options(objective), &sentence);
    }
}

#[test]
fn a_mean_over_no_tokens() {
    let problem = Problem::random(2, Kind::Float);
    let num_sequences = problem.batch.sequence_num_tokens.size()[0];
    let log_probs = -Tensor::ones([num_sequences], (Kind::Float, Device::Cpu));
    let num_tokens = changed(&problem.batch.sequence_num_tokens, 0, 0.0);
    let inputs = LossInputs {
        reference_log_probs: None,
        sequence_num_tokens: Some(&num_tokens),
        ..exported(&problem.with_log_probs(&log_probs))
    };
    for objective in [Objective::Simpo, Objective::Orpo] {
        refused(&inputs, options(objective), "sequence 0 has no target tokens, so it has no mean log-prob");
    }
    let summed = LossOptions { sft_weight: 1.0, ..options(Objective::Listwise) };
    let sentence = "sequence_num_tokens is missing: sft_weight needs it";
    refused(&LossInputs { sequence_num_tokens: None, ..inputs }, summed, sentence);
    // With means nothing is missing.
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let means = LossOptions { reduction: Reduction::Mean, ..summed };
    plugin.loss_forward(&LossInputs { sequence_num_tokens: None, ..inputs }, &means).unwrap();
}

#[test]
fn ranks_that_are_no_ranks() {
    let problem = Problem::random(2, Kind::Float);
    let inputs = exported(&problem.inputs());
    let (m, c) = (problem.batch.pi_target.size()[0], problem.batch.pi_target.size()[1]);
    let ones = Tensor::ones([m, c], (Kind::Int64, Device::Cpu));
    let zero = Tensor::zeros([m, c], (Kind::Int64, Device::Cpu));
    let (short, negative, floats) = (ones.narrow(1, 0, c - 1), &ones - 2, ones.to_kind(Kind::Float));
    for (ranks, sentence) in [
        (&zero, "ranks is 0 at dimension "),
        (&short, "ranks has shape "),
        (&negative, "ranks is -1 at 0, but it must be at least 0"),
        (&floats, "ranks is float32, but it must be int64"),
    ] {
        refused(&LossInputs { ranks: Some(ranks), ..inputs }, options(Objective::PlackettLuce), sentence);
    }
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let options = LossOptions { wants: Wants::default(), ..options(Objective::PlackettLuce) };
    plugin.loss_forward(&LossInputs { ranks: Some(&ones), ..inputs }, &options).unwrap();
}
