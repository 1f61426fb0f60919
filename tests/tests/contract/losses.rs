//! Log-probs, loss and gradients: the core directly, and through the table.

use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_core as core;
use lambda_dpo_host::plugin::{self, Plugin, PluginError};
use lambda_dpo_tests::plugin_library;
use lambda_dpo_tests::table::{self, PairLoss, api, checked};
use proptest::prelude::*;
use proptest::sample::select;
use tch::{Device, Kind, Tensor};

use lambda_dpo_tests::batches::{Problem, Rng, exported, exported_options};

/// The input that log-probs are computed from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Hidden,
    Logits,
    SequenceLogProbs,
}

/// An error in the inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    TokenBeyondVocabulary,
    PositionBeyondRows,
    SequenceBeyondCount,
    LambdaNotFinite,
    TargetsOfOtherLength,
    OffsetsDescending,
    NothingToScore,
    WholeNumbers,
}

/// The tensors of a problem, with a fault inserted.
struct Inputs {
    source: Source,
    input: Option<Tensor>,
    problem: Problem,
    lambda: Tensor,
    target_ids: Tensor,
    target_positions: Tensor,
    target_sequences: Tensor,
    prompt_offsets: Tensor,
}

/// A copy with one element changed.
pub fn changed(tensor: &Tensor, at: i64, value: f64) -> Tensor {
    let copy = tensor.copy();
    let _ = copy.reshape([-1]).narrow(0, at, 1).fill_(value);
    copy
}

impl Inputs {
    fn new(seed: u64, kind: Kind, source: Source, fault: Fault) -> Self {
        let problem = Problem::random(seed, kind);
        let num_sequences = problem.batch.sequence_num_tokens.size()[0];
        let input = match source {
            Source::Hidden => problem.hidden.copy(),
            Source::Logits => problem.logits(),
            Source::SequenceLogProbs => Rng(seed).tensor(&[num_sequences], kind),
        };
        let input = if fault == Fault::WholeNumbers { input.to_kind(Kind::Int64) } else { input };
        let batch = &problem.batch;
        let with = |when: Fault, tensor: &Tensor, at: i64, value: f64| {
            if fault == when { changed(tensor, at, value) } else { tensor.copy() }
        };
        let target_sequences = with(Fault::SequenceBeyondCount, &batch.target_sequences, 0, num_sequences as f64);
        Self {
            lambda: with(Fault::LambdaNotFinite, &batch.lambda, 0, f64::NAN),
            target_ids: with(Fault::TokenBeyondVocabulary, &batch.target_ids, 1, 1e6),
            target_positions: with(Fault::PositionBeyondRows, &batch.target_positions, 0, 1e6),
            target_sequences: match fault {
                Fault::TargetsOfOtherLength => target_sequences.narrow(0, 1, target_sequences.size()[0] - 1),
                _ => target_sequences,
            },
            prompt_offsets: with(Fault::OffsetsDescending, &batch.prompt_offsets, 1, -3.0),
            input: (fault != Fault::NothingToScore).then_some(input),
            problem,
            source,
        }
    }

    fn native(&self) -> core::LossInputs<'_> {
        let input = self.input.as_ref();
        let targets = core::LossInputs {
            target_positions: Some(&self.target_positions),
            target_ids: Some(&self.target_ids),
            target_sequences: Some(&self.target_sequences),
            prompt_offsets: Some(&self.prompt_offsets),
            lambda: Some(&self.lambda),
            hidden: None,
            lm_head: None,
            ..self.problem.inputs()
        };
        match self.source {
            Source::Hidden => core::LossInputs { hidden: input, lm_head: Some(&self.problem.lm_head), ..targets },
            Source::Logits => core::LossInputs { logits: input, ..targets },
            Source::SequenceLogProbs => core::LossInputs {
                sequence_log_probs: input,
                target_positions: None,
                target_ids: None,
                target_sequences: None,
                ..targets
            },
        }
    }

    fn exported(&self) -> plugin::LossInputs<'_> {
        exported(&self.native())
    }
}

/// Options of the core.
fn options() -> impl Strategy<Value = core::LossOptions> {
    (
        select((0..).map_while(core::Objective::from_code).collect::<Vec<_>>()),
        any::<bool>(),
        select(vec![0.1, 2.0, 0.0, -1.0, f64::NAN]),
        select(vec![None, Some(3.0)]),
        select(vec![1_usize, 1 << 10, 1 << 20]),
        prop_oneof![3 => Just(false), 1 => Just(true)],
        prop_oneof![2 => Just([0.0; 3]), 1 => select(vec![[0.1, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.2], [-1.0; 3]])],
    )
        .prop_map(|(objective, mean, beta, normalizer, logits_budget_bytes, paper_exact, weights)| {
            let [label_smoothing, simpo_gamma, sft_weight] = weights;
            let reduction = if mean { core::Reduction::Mean } else { core::Reduction::Sum };
            core::LossOptions {
                objective,
                reduction,
                beta,
                label_smoothing,
                simpo_gamma,
                sft_weight,
                normalizer,
                logits_budget_bytes,
                paper_exact,
                wants: core::Wants::default(),
            }
        })
}

fn same(what: &str, native: Option<&Tensor>, exported: Option<&Tensor>) {
    assert_eq!(native.is_some(), exported.is_some(), "{what}");
    let (Some(native), Some(exported)) = (native, exported) else { return };
    assert_eq!((native.kind(), native.size()), (exported.kind(), exported.size()), "{what}");
    // Equal bit for bit, including NaN.
    let same = native.eq_tensor(exported).logical_or(&native.isnan().logical_and(&exported.isnan()));
    assert!(same.all().int64_value(&[]) == 1, "{what}: {native} {exported}");
}

fn same_outputs(native: &core::LossOutputs, exported: &plugin::LossOutputs) {
    same("loss", Some(&native.loss), Some(&exported.loss));
    same("token_log_probs", native.token_log_probs.as_ref(), exported.token_log_probs.as_ref());
    same("sequence_log_probs", Some(&native.sequence_log_probs), Some(&exported.sequence_log_probs));
    assert_eq!(native.preferences.is_some(), exported.preferences.is_some());
    let (Some(native), Some(exported)) = (&native.preferences, &exported.preferences) else { return };
    macro_rules! compare {
        ($($field:ident),*) => { $(same(stringify!($field), Some(&native.$field), Some(&exported.$field));)* };
    }
    compare!(rewards, prompt_losses, dimension_losses, dimension_mask, accuracies, dimension_accuracies, margins);
    same("sft_losses", native.sft_losses.as_ref(), exported.sft_losses.as_ref());
}

fn message(error: PluginError) -> String {
    match error {
        PluginError::Call { message, .. } => message,
        other => panic!("{other}"),
    }
}

/// The functions that the property tests below compare with the core.
pub const COVERED: [(&str, fn()); 3] = [("log_probs", log_probs), ("loss_forward", losses), ("loss_backward", losses)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn losses(
        seed in any::<u64>(),
        kind in select(vec![Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half]),
        source in select(vec![Source::Hidden, Source::Logits, Source::SequenceLogProbs]),
        fault in prop_oneof![
            6 => Just(Fault::None),
            4 => select(vec![
                Fault::TokenBeyondVocabulary, Fault::PositionBeyondRows, Fault::SequenceBeyondCount,
                Fault::LambdaNotFinite, Fault::TargetsOfOtherLength, Fault::OffsetsDescending, Fault::NothingToScore,
                Fault::WholeNumbers,
            ]),
        ],
        mut options in options(),
        wants in any::<bool>(),
        grad_output in select(vec![1.0, -0.5]),
    ) {
        let plugin = Plugin::load(Some(&plugin_library())).unwrap();
        let inputs = Inputs::new(seed, kind, source, fault);
        let wants_of = |which: Source| wants && matches!((source, which), (Source::Hidden, Source::Hidden)
            | (Source::Logits, Source::Logits) | (Source::SequenceLogProbs, Source::SequenceLogProbs));
        options.wants = core::Wants {
            hidden: wants_of(Source::Hidden),
            lm_head: wants_of(Source::Hidden) && seed % 2 == 0,
            logits: wants_of(Source::Logits),
            sequence_log_probs: wants_of(Source::SequenceLogProbs),
        };
        let exported_options = exported_options(&options);
        let mut native_inputs = inputs.native();
        // Refused where there is none, which is one error among many.
        if !options.objective.has_reference() && seed % 8 > 0 {
            native_inputs.reference_log_probs = None;
        }
        let exported_inputs = exported(&native_inputs);
        let native = core::loss_forward(&native_inputs, &options);
        let exported = plugin.loss_forward(&exported_inputs, &exported_options);
        let (native, exported) = match (native, exported) {
            (Ok(native), Ok(exported)) => (native, exported),
            (Err(native), Err(exported)) => {
                prop_assert_eq!(message(exported), native.to_string());
                return Ok(());
            }
            (native, exported) => {
                prop_assert!(false, "{:?}, {:?}", native.map(|n| n.0), exported.map(|e| e.0));
                return Ok(());
            }
        };
        prop_assert_ne!(fault, Fault::WholeNumbers);
        same_outputs(&native.0, &exported.0);
        prop_assert_eq!(native.1.is_some(), exported.1.is_some());
        if let (Some(native), Some(exported)) = (native.1, exported.1) {
            let native = native.backward(&native_inputs, grad_output).unwrap();
            let exported = exported.backward(&exported_inputs, grad_output).unwrap();
            same("∂hidden", native.hidden.as_ref(), exported.hidden.as_ref());
            same("∂lm_head", native.lm_head.as_ref(), exported.lm_head.as_ref());
            same("∂logits", native.logits.as_ref(), exported.logits.as_ref());
            same("∂sequence_log_probs", native.sequence_log_probs.as_ref(), exported.sequence_log_probs.as_ref());
        }
    }

    #[test]
    fn log_probs(
        seed in any::<u64>(),
        kind in select(vec![Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half]),
        source in select(vec![Source::Hidden, Source::Logits]),
        options in options(),
    ) {
        let plugin = Plugin::load(Some(&plugin_library())).unwrap();
        let inputs = Inputs::new(seed, kind, source, Fault::None);
        let exported = plugin.log_probs(&inputs.exported(), &exported_options(&options));
        match (core::log_probs(&inputs.native(), &options), exported) {
            (Ok(native), Ok(exported)) => {
                same("token_log_probs", native.0.as_ref(), Some(&exported.0));
                same("sequence_log_probs", Some(&native.1), Some(&exported.1));
            }
            (Err(native), Err(exported)) => prop_assert_eq!(message(exported), native.to_string()),
            (native, exported) => prop_assert!(false, "{:?}, {:?}", native, exported),
        }
    }
}

pub fn options_of(wants: plugin::Wants) -> plugin::LossOptions {
    plugin::LossOptions { beta: 1.0, logits_budget_bytes: 1 << 20, wants, ..plugin::LossOptions::default() }
}

/// The same values with other strides and an offset: a transposed view into a larger tensor.
#[test]
fn hidden_states_may_be_strided() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let inputs = Inputs::new(3, Kind::Float, Source::Hidden, Fault::None);
    let hidden = inputs.input.as_ref().unwrap();
    let size = hidden.size();
    let room = Tensor::zeros([size[0], size[2] + 1, size[1] + 1], (Kind::Float, tch::Device::Cpu));
    let strided = room.narrow(1, 1, size[2]).narrow(2, 1, size[1]).transpose(1, 2);
    strided.shallow_clone().copy_(hidden);
    assert!(!strided.is_contiguous());
    let loss = |hidden: &Tensor| {
        let inputs = plugin::LossInputs { hidden: Some(hidden), ..inputs.exported() };
        plugin.loss_forward(&inputs, &options_of(plugin::Wants::default())).unwrap().0.loss
    };
    assert_eq!(loss(&strided), loss(hidden));
}

#[test]
fn the_callers_grad_mode_is_restored() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let inputs = Inputs::new(3, Kind::Float, Source::Hidden, Fault::None);
    let call = || drop(plugin.loss_forward(&inputs.exported(), &options_of(plugin::Wants::default())).unwrap());
    let weight = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
    call();
    assert!((&weight * 2.0).requires_grad());
    let _guard = tch::no_grad_guard();
    call();
    assert!(!(&weight * 2.0).requires_grad());
}

/// A backward with other inputs than its forward's is refused, and the right one still follows.
#[test]
fn a_refused_backward_leaves_its_context_usable() {
    let (loss, longer) = (PairLoss::new(Device::Cpu), Tensor::from_slice(&[-1.0_f32, -2.0, -3.0]));
    let longer = abi::tensor::export(&longer).unwrap();
    // SAFETY: everything outlives the calls, and every result is freed once.
    unsafe {
        let (inputs, options) = (loss.inputs(), PairLoss::options());
        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
        table::free_outputs(outputs);
        let mut gradients = table::sized::<abi::LossGradients>();
        let other = abi::LossInputs { sequence_log_probs: longer.as_raw(), ..loss.inputs() };
        let (status, message) =
            checked(|e| (api().loss_backward)(context, &other, 1.0, &mut gradients, e)).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(message.starts_with("the inputs of the backward differ from those of its forward"), "{message}");
        assert!(gradients.sequence_log_probs.is_null());

        checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap();
        abi::tensor::free_tensor(gradients.sequence_log_probs);
        (api().loss_context_free)(context);
    }
}

/// −log σ(Δ) with Δ = 1 has the gradient σ(1) − 1; a second backward is refused.
#[test]
pub fn a_context_serves_one_backward() {
    let loss = PairLoss::new(Device::Cpu);
    // SAFETY: everything outlives the calls, and every result is freed once.
    unsafe {
        let (inputs, options) = (loss.inputs(), PairLoss::options());
        let (mut outputs, mut context) = (table::sized::<abi::LossOutputs>(), null_mut());
        checked(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
        table::free_outputs(outputs);
        let mut gradients = table::sized::<abi::LossGradients>();
        checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap();
        let gradient = abi::tensor::import(std::mem::replace(&mut gradients.sequence_log_probs, null_mut())).unwrap();
        let expected = 1.0 / (1.0 + (-1.0_f64).exp()) - 1.0;
        assert!((gradient.double_value(&[0]) - expected).abs() < 1e-6);

        let again = checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap_err();
        let sentence = "`context` has served its backward; run the forward again";
        assert_eq!(again, (abi::STATUS_POISONED, sentence.to_owned()));
        assert!(gradients.sequence_log_probs.is_null());
        (api().loss_context_free)(context);
        (api().loss_context_free)(context);

        let (status, message) =
            checked(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(message.starts_with("argument `context` is not a live handle of its type: it was freed"), "{message}");
    }
}
