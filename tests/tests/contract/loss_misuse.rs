//! Misuse of the loss: impossible shapes, ids, offsets and numbers, and streams that do not exist.

use std::ffi::c_void;
use std::ptr::{null_mut, without_provenance_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_host::plugin::{self, Plugin, PluginError};
use lambda_dpo_tests::plugin_library;
use lambda_dpo_tests::table::{self, Failure, PairLoss, api, checked};
use tch::{Device, Kind, Tensor};

use crate::losses::{changed, options_of};
use lambda_dpo_tests::batches::{HIDDEN, Problem, VOCAB, exported};

const WANTS_HIDDEN: plugin::Wants =
    plugin::Wants { hidden: true, lm_head: false, logits: false, sequence_log_probs: false };

fn whole(size: &[i64]) -> Tensor {
    Tensor::zeros(size, (Kind::Int64, Device::Cpu))
}

fn floats(size: &[i64]) -> Tensor {
    Tensor::zeros(size, (Kind::Float, Device::Cpu))
}

/// Calls the loss with bad inputs, which must fail with a message that begins with `sentence`.
#[track_caller]
fn refused(spoilt: &plugin::LossInputs, sentence: &str) {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    match plugin.loss_forward(spoilt, &options_of(WANTS_HIDDEN)) {
        Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message }) => {
            assert!(message.starts_with(sentence), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shapes_that_do_not_fit() {
    let problem = Problem::random(2, Kind::Float);
    let good = exported(&problem.inputs());
    let rows = problem.hidden.size()[0] * problem.hidden.size()[1];
    let (narrow, flat) = (floats(&[VOCAB, HIDDEN - 1]), floats(&[rows]));
    refused(&plugin::LossInputs { lm_head: Some(&narrow), ..good }, "lm_head has shape");
    refused(&plugin::LossInputs { hidden: Some(&flat), ..good }, "hidden has shape");
    refused(&plugin::LossInputs { lm_head: None, ..good }, "lm_head is missing");
    let ids = problem.batch.target_ids.size()[0];
    let unequal = "target_positions, target_ids and target_sequences must be of one length, but they have ";
    let (short, square) = (whole(&[ids - 1]), whole(&[ids, 1]));
    refused(&plugin::LossInputs { target_ids: Some(&short), ..good }, unequal);
    refused(&plugin::LossInputs { target_positions: Some(&square), ..good }, "target_positions has shape");
    refused(&plugin::LossInputs { target_sequences: Some(&short), ..good }, unequal);
    let offsets = problem.batch.prompt_offsets.unsqueeze(1);
    refused(&plugin::LossInputs { prompt_offsets: Some(&offsets), ..good }, "prompt_offsets has shape");
    let reference = floats(&[good.num_sequences + 1]);
    refused(&plugin::LossInputs { reference_log_probs: Some(&reference), ..good }, "reference_log_probs has shape");
    let m = problem.batch.lambda.size()[1];
    let (fewer, other) = (floats(&[1, m]), floats(&[m, 1]));
    refused(&plugin::LossInputs { lambda: Some(&fewer), ..good }, "lambda has shape");
    refused(&plugin::LossInputs { pi_target: Some(&other), ..good }, "pi_target has shape");
    let mask = floats(&[m, 1]).to_kind(Kind::Bool);
    refused(&plugin::LossInputs { target_mask: Some(&mask), ..good }, "target_mask has shape");
}

#[test]
fn dtypes_that_do_not_fit() {
    let problem = Problem::random(2, Kind::Float);
    let good = exported(&problem.inputs());
    let as_floats = |tensor: &Tensor| tensor.to_kind(Kind::Float);
    let (ids, offsets) = (as_floats(&problem.batch.target_ids), as_floats(&problem.batch.prompt_offsets));
    refused(&plugin::LossInputs { target_ids: Some(&ids), ..good }, "target_ids is float32, but it must be int64");
    refused(
        &plugin::LossInputs { prompt_offsets: Some(&offsets), ..good },
        "prompt_offsets is float32, but it must be int64",
    );
    let lambda = problem.batch.lambda.to_kind(Kind::Int64);
    refused(&plugin::LossInputs { lambda: Some(&lambda), ..good }, "lambda is int64, but it must be float32, bfloat16");
    let head = problem.lm_head.to_kind(Kind::BFloat16);
    refused(&plugin::LossInputs { lm_head: Some(&head), ..good }, "hidden is float32, but lm_head is bfloat16");
}

#[test]
fn ids_and_offsets_out_of_range() {
    let problem = Problem::random(2, Kind::Float);
    let good = exported(&problem.inputs());
    let batch = &problem.batch;
    for wrong in [-1.0, VOCAB as f64, 1e15] {
        let ids = changed(&batch.target_ids, 0, wrong);
        refused(&plugin::LossInputs { target_ids: Some(&ids), ..good }, &format!("target_ids is {wrong} at 0"));
        let positions = changed(&batch.target_positions, 0, if wrong < 0.0 { wrong } else { 1e15 });
        refused(&plugin::LossInputs { target_positions: Some(&positions), ..good }, "target_positions is ");
        let sequences = changed(&batch.target_sequences, 0, if wrong < 0.0 { wrong } else { 1e15 });
        refused(&plugin::LossInputs { target_sequences: Some(&sequences), ..good }, "target_sequences is ");
        let index = changed(&batch.sequence_index, 0, if wrong < 0.0 { wrong } else { 1e15 });
        refused(&plugin::LossInputs { sequence_index: Some(&index), ..good }, "sequence_index is ");
    }
    let begin = "prompt_offsets must begin with 0 and never fall";
    let (late, falling) = (changed(&batch.prompt_offsets, 0, 1.0), changed(&batch.prompt_offsets, 1, 1e6));
    refused(&plugin::LossInputs { prompt_offsets: Some(&late), ..good }, begin);
    refused(&plugin::LossInputs { prompt_offsets: Some(&falling), ..good }, begin);
    let empty = whole(&[0]);
    refused(&plugin::LossInputs { prompt_offsets: Some(&empty), ..good }, begin);
    refused(&plugin::LossInputs { num_sequences: -1, ..good }, "`num_sequences` is 18446744073709551615");
    refused(&plugin::LossInputs { num_sequences: i64::MAX, ..good }, "num_sequences is 9223372036854775807");
}

#[test]
fn invalid_lambda_beta_and_normalizer() {
    let problem = Problem::random(2, Kind::Float);
    let good = exported(&problem.inputs());
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5] {
        let lambda = changed(&problem.batch.lambda, 0, wrong);
        refused(&plugin::LossInputs { lambda: Some(&lambda), ..good }, "lambda of prompt 0 is ");
    }
    for (at, weight) in [(0, 0.5), (0, 2.0)] {
        let lambda = changed(&problem.batch.lambda, at, weight);
        refused(&plugin::LossInputs { lambda: Some(&lambda), ..good }, "lambda of prompt 0 ");
    }
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let options = plugin::LossOptions { beta, ..options_of(WANTS_HIDDEN) };
        let error = plugin.loss_forward(&good, &options).unwrap_err().to_string();
        assert!(error.starts_with("beta is "), "{error}");
    }
    for normalizer in [-1.0, f64::NAN, f64::INFINITY] {
        let options = plugin::LossOptions { normalizer: Some(normalizer), ..options_of(WANTS_HIDDEN) };
        let error = plugin.loss_forward(&good, &options).unwrap_err().to_string();
        assert!(error.starts_with("`normalizer` is "), "{error}");
    }
}

/// N = 0, M = 0, and no prompts.
#[test]
fn nothing_to_compare() {
    let problem = Problem::random(2, Kind::Float);
    let good = exported(&problem.inputs());
    let (prompts, sequences) = (problem.batch.lambda.size()[0], good.num_sequences);
    let none = floats(&[prompts, 0]);
    refused(&plugin::LossInputs { lambda: Some(&none), ..good }, "lambda has shape");

    // Prompts without a response, or no prompts: nothing contributes, and the loss is 0.
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    for (offsets, lambda) in [(whole(&[1]), floats(&[0, 1])), (whole(&[2]), floats(&[1, 1]))] {
        let (pi, finished) = (floats(&[1, 0]), floats(&[0]));
        let inputs = plugin::LossInputs {
            sequence_log_probs: Some(&finished),
            prompt_offsets: Some(&offsets),
            pi_target: Some(&pi),
            lambda: Some(&lambda),
            ..plugin::LossInputs::default()
        };
        let (outputs, _) = plugin.loss_forward(&inputs, &options_of(plugin::Wants::default())).unwrap();
        assert_eq!(outputs.loss.double_value(&[]), 0.0);
    }
    let offsets = whole(&[2]);
    let inputs = plugin::LossInputs { prompt_offsets: Some(&offsets), sequence_index: None, ..good };
    refused(&inputs, if sequences == 0 { "" } else { "lambda has shape" });
}

#[test]
fn gradients_of_missing_inputs() {
    let problem = Problem::random(2, Kind::Float);
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let wants = plugin::Wants { logits: true, ..plugin::Wants::default() };
    let error = plugin.loss_forward(&exported(&problem.inputs()), &options_of(wants)).unwrap_err().to_string();
    assert_eq!(error, "a gradient for logits is wanted, but logits was not given");
}

#[test]
fn a_backward_with_other_inputs() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let problem = Problem::random(2, Kind::Float);
    let other = Problem::random(2, Kind::Double);
    let (_, context) = plugin.loss_forward(&exported(&problem.inputs()), &options_of(WANTS_HIDDEN)).unwrap();
    let error = context.unwrap().backward(&exported(&other.inputs()), 1.0).unwrap_err().to_string();
    assert!(error.starts_with("the inputs of the backward differ from those of its forward"), "{error}");
}

/// Computes the loss −log σ(1) from log-probs on a device, the forward on one stream and the backward on another.
fn on_stream(device: Device, forward: *mut c_void, backward: *mut c_void) -> Result<f64, Failure> {
    let loss = PairLoss::new(device);
    // SAFETY: everything outlives the calls, and every result is freed once.
    unsafe {
        let mut inputs = abi::LossInputs { cuda_stream: forward, ..loss.inputs() };
        let options = PairLoss::options();
        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e))?;
        let loss = abi::tensor::import(std::mem::replace(&mut outputs.loss, null_mut())).unwrap();
        table::free_outputs(outputs);
        let mut gradients = table::sized::<abi::LossGradients>();
        inputs.cuda_stream = backward;
        let result = checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e));
        abi::tensor::free_tensor(gradients.sequence_log_probs);
        (api().loss_context_free)(context);
        result.map(|()| loss.double_value(&[]))
    }
}

#[test]
fn a_stream_needs_tensors_on_its_device() {
    let stream = |handle: usize| without_provenance_mut::<c_void>(handle);
    let none = stream(0);
    let cpu = on_stream(Device::Cpu, none, none).unwrap();
    assert!((cpu - (-1.0_f64).exp().ln_1p()).abs() < 1e-6);
    let message = |result: Result<f64, Failure>| {
        let (status, message) = result.unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        message
    };
    let refused = "`cuda_stream` is set, but the tensors to score are not on a CUDA device: leave it NULL";
    assert_eq!(message(on_stream(Device::Cpu, stream(1), none)), refused);
    assert_eq!(message(on_stream(Device::Cpu, none, stream(2))), refused);
    if tch::Cuda::is_available() {
        let cuda = Device::Cuda(0);
        // Libtorch's current stream, and CUDA's two predefined ones.
        for handle in [0, 1, 2] {
            let loss = on_stream(cuda, stream(handle), stream(handle)).unwrap();
            assert!((loss - cpu).abs() < 1e-6);
        }
        assert_eq!(message(on_stream(cuda, stream(3), none)), "`cuda_stream`: 0x3 is not a CUDA stream");
        let other = "`cuda_stream` is 0x2, but it was 0x1 in the forward: pass the same to the backward";
        assert_eq!(message(on_stream(cuda, stream(1), stream(2))), other);
    }
}
