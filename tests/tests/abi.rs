//! The table as a foreign caller sees it: versions, misuse, and the same results as the core itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::process::Command;
use std::ptr::{null, null_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_core as core;
use lambda_dpo_host::plugin::{self, Plugin};
use lambda_dpo_tests::table::{self, api, get_api, text, told};
use lambda_dpo_tests::{fixture, plugin_library};
use tch::{Kind, Tensor};

fn convert_options() -> abi::ConvertOptions {
    table::convert_options(abi::FORMAT_ULTRAFEEDBACK)
}

const RECORD: &str = r#"{"instruction": "Say hello.", "completions": [
    {"response": "Hello.", "annotations": {"helpfulness": {"Rating": "4"}, "honesty": {"Rating": "N/A"}}},
    {"response": "Hi!", "annotations": {"helpfulness": {"Rating": "2"}, "honesty": {"Rating": "5"}}},
    {"response": "Hey", "annotations": {"helpfulness": {"Rating": "1"}, "honesty": {"Rating": "3"}}}]}"#;

#[test]
fn exports_one_symbol() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(plugin_library()).output().unwrap();
    let symbols: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect();
    assert_eq!(symbols, [abi::ENTRY_POINT]);
}

#[test]
fn refuses_other_majors_and_newer_minors() {
    let served = "use a library of the caller's version";
    for (major, minor) in [(abi::ABI_MAJOR + 1, 0), (0, 0), (abi::ABI_MAJOR, abi::ABI_MINOR + 1)] {
        let (status, message) = get_api(major, minor).unwrap_err();
        assert_eq!(status, abi::STATUS_UNSUPPORTED);
        assert_eq!(
            message,
            format!("the caller asks for plugin ABI {major}.{minor}, this library serves 1.0 to 1.0; {served}")
        );
    }
}

#[test]
fn names_the_versions_it_was_built_for() {
    let empty = abi::Str { data: null(), len: 0 };
    let mut info = abi::BuildInfo { struct_size: size_of::<abi::BuildInfo>(), version: empty, torch_version: empty };
    // SAFETY: `info` is valid, and its strings are static.
    let torch = unsafe {
        told(|error| (api().build_info)(&mut info, error)).unwrap();
        std::str::from_utf8(std::slice::from_raw_parts(info.torch_version.data, info.torch_version.len)).unwrap()
    };
    assert_eq!(torch, "2.11.0");
}

#[test]
fn refuses_short_structs_and_bad_text() {
    let mut bytes = abi::Bytes { data: null_mut(), len: 0, capacity: 0 };
    let short = abi::ConvertOptions { struct_size: 8, ..convert_options() };
    let options = convert_options();
    let api = api();
    // SAFETY: all pointers are valid.
    unsafe {
        let (status, message) = told(|e| (api.convert_record)(text(RECORD), 0, &short, &mut bytes, e)).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        let size = size_of::<abi::ConvertOptions>();
        let sizes = format!("the struct has at least {size} bytes (this version's has {size})");
        let fix = "set it to the struct's sizeof";
        assert_eq!(message, format!("argument `options` has struct_size 8, but {sizes}: {fix}"));

        let bad = abi::Str { data: b"\"\xff\"".as_ptr(), len: 3 };
        let (_, message) = told(|e| (api.convert_record)(bad, 0, &options, &mut bytes, e)).unwrap_err();
        assert_eq!(message, "argument `record` is not valid UTF-8: byte 1 is out of place");

        let (status, message) = told(|e| (api.convert_record)(text("{}"), 7, &options, &mut bytes, e)).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert!(message.starts_with("record 7: "), "{message}");
    }
}

#[test]
fn cuts_messages_at_a_character() {
    // "λ" has two bytes: of the message about a missing λ, no half may be written.
    let options = abi::ScheduleOptions {
        struct_size: size_of::<abi::ScheduleOptions>(),
        kind: 99,
        dimension: 0,
        num_dimensions: 2,
        alpha: 1.0,
        weights: null(),
        num_rows: 0,
        probabilities: null(),
    };
    for capacity in 0..64 {
        let mut buffer = vec![0xAA_u8; 64];
        let mut error =
            abi::Error { struct_size: size_of::<abi::Error>(), buffer: buffer.as_mut_ptr(), capacity, len: 0 };
        let mut schedule = null_mut();
        // SAFETY: all pointers are valid.
        let status = unsafe { (api().schedule_new)(&options, &mut schedule, &mut error) };
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(error.len > capacity || capacity >= 40);
        let written = buffer.iter().position(|byte| *byte == 0xAA).unwrap_or(buffer.len());
        assert!(written <= capacity);
        assert!(std::str::from_utf8(&buffer[..written]).is_ok());
    }
}

#[test]
fn converts_as_the_core_does() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let exported = plugin.convert_record(RECORD, 3, &plugin::ConvertOptions::default()).unwrap().unwrap();
    let options = core::ConvertOptions {
        format: core::Format::UltraFeedback,
        best_worst_pairs: false,
        dimensions: None,
        missing_rating: core::MissingRating::Mask,
        temperature: 1.0,
        max_samples: None,
        exclude_sources: Vec::new(),
        keep_all: false,
    };
    let native = core::convert::convert_record(RECORD, 3, &options).unwrap().unwrap();
    assert_eq!(exported, serde_json::to_string(&native).unwrap());
}

#[test]
fn draws_lambda_as_the_core_does() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let exported = plugin
        .schedule(&plugin::ScheduleOptions { kind: plugin::ScheduleKind::Dirichlet { alpha: 0.4 }, num_dimensions: 3 })
        .unwrap();
    let native = core::Schedule::new(core::lambda::ScheduleOptions {
        kind: core::ScheduleKind::Dirichlet { alpha: 0.4 },
        num_dimensions: 3,
    })
    .unwrap();
    for index in 0..20 {
        assert_eq!(exported.draw_instance(1, 2, index).unwrap(), native.draw_instance(1, 2, index));
        assert_eq!(exported.draw_step(1, index).unwrap(), native.draw_step(1, index));
    }
}

/// A small listwise problem over hidden states: 2 prompts with 2 and 3 responses, 2 dimensions.
struct Problem {
    tensors: Vec<(&'static str, Tensor)>,
}

impl Problem {
    fn new(kind: Kind) -> Self {
        tch::manual_seed(7);
        let ids = |values: &[i64]| Tensor::from_slice(values);
        let pi = Tensor::from_slice(&[0.3_f32, 0.7, 0.2, 0.5, 0.3, 0.9, 0.1, 0.6, 0.4, 0.0]).view([2, 5]);
        let mask = Tensor::from_slice(&[true, true, true, true, true, true, true, true, true, false]).view([2, 5]);
        Self {
            tensors: vec![
                ("hidden", Tensor::randn([1, 12, 8], (Kind::Float, tch::Device::Cpu)).to_kind(kind)),
                ("lm_head", Tensor::randn([17, 8], (Kind::Float, tch::Device::Cpu)).to_kind(kind)),
                ("target_positions", ids(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])),
                ("target_ids", ids(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 16])),
                ("target_sequences", ids(&[0, 0, 1, 1, 2, 2, 3, 3, 4, 4])),
                ("prompt_offsets", ids(&[0, 2, 5])),
                ("pi_target", pi),
                ("target_mask", mask),
                ("lambda", Tensor::from_slice(&[0.25_f32, 0.75, 0.5, 0.5]).view([2, 2])),
                ("reference_log_probs", Tensor::from_slice(&[-5.0_f32, -4.0, -6.0, -5.5, -4.5])),
            ],
        }
    }

    fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(key, _)| *key == name).map(|(_, tensor)| tensor)
    }

    fn exported(&self) -> plugin::LossInputs<'_> {
        plugin::LossInputs {
            hidden: self.get("hidden"),
            lm_head: self.get("lm_head"),
            target_positions: self.get("target_positions"),
            target_ids: self.get("target_ids"),
            target_sequences: self.get("target_sequences"),
            num_sequences: 5,
            reference_log_probs: self.get("reference_log_probs"),
            prompt_offsets: self.get("prompt_offsets"),
            pi_target: self.get("pi_target"),
            target_mask: self.get("target_mask"),
            lambda: self.get("lambda"),
            ..Default::default()
        }
    }

    fn native(&self) -> core::LossInputs<'_> {
        let inputs = self.exported();
        core::LossInputs {
            hidden: inputs.hidden,
            lm_head: inputs.lm_head,
            logits: None,
            sequence_log_probs: None,
            target_positions: inputs.target_positions,
            target_ids: inputs.target_ids,
            target_sequences: inputs.target_sequences,
            num_sequences: 5,
            reference_log_probs: inputs.reference_log_probs,
            prompt_offsets: inputs.prompt_offsets,
            sequence_index: None,
            pi_target: inputs.pi_target,
            target_mask: inputs.target_mask,
            lambda: inputs.lambda,
        }
    }
}

fn exported_options() -> plugin::LossOptions {
    plugin::LossOptions {
        objective: plugin::Objective::Listwise,
        reduction: plugin::Reduction::Sum,
        beta: 0.1,
        normalizer: None,
        logits_budget_bytes: 1 << 20,
        paper_exact: false,
        wants: plugin::Wants { hidden: true, lm_head: true, logits: false, sequence_log_probs: false },
    }
}

#[test]
fn computes_losses_and_gradients_as_the_core_does() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
        let problem = Problem::new(kind);
        let (exported, context) = plugin.loss_forward(&problem.exported(), &exported_options()).unwrap();
        let gradients = context.unwrap().backward(&problem.exported(), 2.0).unwrap();
        let options = core::LossOptions {
            objective: core::Objective::Listwise,
            reduction: core::Reduction::Sum,
            beta: 0.1,
            normalizer: None,
            logits_budget_bytes: 1 << 20,
            paper_exact: false,
            wants: core::Wants { hidden: true, lm_head: true, logits: false, sequence_log_probs: false },
        };
        let (native, context) = core::loss_forward(&problem.native(), &options).unwrap();
        let native_gradients = context.unwrap().backward(&problem.native(), 2.0).unwrap();
        let listwise = (exported.listwise.unwrap(), native.listwise.unwrap());
        for (what, a, b) in [
            ("loss", &exported.loss, &native.loss),
            ("sequence_log_probs", &exported.sequence_log_probs, &native.sequence_log_probs),
            ("rewards", &listwise.0.rewards, &listwise.1.rewards),
            ("dimension_losses", &listwise.0.dimension_losses, &listwise.1.dimension_losses),
            ("dimension_mask", &listwise.0.dimension_mask, &listwise.1.dimension_mask),
            ("accuracies", &listwise.0.accuracies, &listwise.1.accuracies),
            ("margins", &listwise.0.margins, &listwise.1.margins),
            ("∂hidden", &gradients.hidden.unwrap(), &native_gradients.hidden.unwrap()),
            ("∂lm_head", &gradients.lm_head.unwrap(), &native_gradients.lm_head.unwrap()),
        ] {
            assert_eq!(a, b, "{what} in {kind:?}");
        }
    }
}

#[test]
fn reads_strided_offset_and_expanded_tensors() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let problem = Problem::new(Kind::Float);
    let (plain, _) = plugin.loss_forward(&problem.exported(), &exported_options()).unwrap();
    let hidden = problem.get("hidden").unwrap();
    // The same values behind other strides and an offset: [8, 12] transposed, inside a larger allocation.
    let strided = Tensor::zeros([1, 9, 13], (Kind::Float, tch::Device::Cpu));
    let strided = strided.narrow(1, 1, 8).narrow(2, 1, 12).transpose(1, 2);
    strided.shallow_clone().copy_(hidden);
    assert!(!strided.is_contiguous());
    let lambda = Tensor::from_slice(&[0.5_f32]).expand([2, 2], false);
    let even = Tensor::from_slice(&[0.5_f32; 4]).view([2, 2]);
    let inputs = plugin::LossInputs { hidden: Some(&strided), ..problem.exported() };
    let (moved, _) = plugin.loss_forward(&inputs, &exported_options()).unwrap();
    assert_eq!(moved.loss, plain.loss);
    let loss = |lambda: &Tensor| {
        let inputs = plugin::LossInputs { lambda: Some(lambda), ..problem.exported() };
        plugin.loss_forward(&inputs, &exported_options()).unwrap().0.loss
    };
    assert_eq!(loss(&lambda), loss(&even));
}

#[test]
fn a_context_serves_one_backward_and_dtypes_are_refused_by_name() {
    let problem = Problem::new(Kind::Float);
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let bytes = Tensor::zeros([1, 12, 8], (Kind::Uint8, tch::Device::Cpu));
    let inputs = plugin::LossInputs { hidden: Some(&bytes), ..problem.exported() };
    let message = plugin.loss_forward(&inputs, &exported_options()).unwrap_err().to_string();
    assert_eq!(
        message,
        "tensor `hidden`: dtype uint8 is not supported, only float32, float64, float16, bfloat16, int64 and bool"
    );

    let log_probs = Tensor::from_slice(&[-1.0_f32, -2.0]);
    let lent = abi::tensor::export(&log_probs).unwrap();
    let offsets = abi::tensor::export(&Tensor::from_slice(&[0_i64, 2])).unwrap();
    let pi = abi::tensor::export(&Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 2])).unwrap();
    let lambda = abi::tensor::export(&Tensor::from_slice(&[1.0_f32]).view([1, 1])).unwrap();
    let inputs = abi::LossInputs {
        struct_size: size_of::<abi::LossInputs>(),
        hidden: null_mut(),
        lm_head: null_mut(),
        logits: null_mut(),
        sequence_log_probs: lent.as_raw(),
        target_positions: null_mut(),
        target_ids: null_mut(),
        target_sequences: null_mut(),
        num_sequences: 2,
        reference_log_probs: null_mut(),
        prompt_offsets: offsets.as_raw(),
        sequence_index: null_mut(),
        pi_target: pi.as_raw(),
        target_mask: null_mut(),
        lambda: lambda.as_raw(),
    };
    let options = abi::LossOptions {
        struct_size: size_of::<abi::LossOptions>(),
        objective: abi::OBJECTIVE_LISTWISE,
        reduction: abi::REDUCTION_SUM,
        beta: 1.0,
        normalizer: 0.0,
        logits_budget_bytes: 0,
        paper_exact: 0,
        wants: abi::WANTS_SEQUENCE_LOG_PROBS,
    };
    // SAFETY: zeroed outputs are NULL tensors; everything lives through the calls and is freed once.
    unsafe {
        let mut outputs: abi::LossOutputs = std::mem::zeroed();
        outputs.struct_size = size_of::<abi::LossOutputs>();
        let mut context = null_mut();
        told(|e| (api().loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
        let mut gradients: abi::LossGradients = std::mem::zeroed();
        gradients.struct_size = size_of::<abi::LossGradients>();
        told(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap();
        let grad = abi::tensor::import(gradients.sequence_log_probs).unwrap();
        gradients.sequence_log_probs = null_mut();
        // −log σ(Δ), Δ = 1: ∂/∂r_w = σ(1) − 1.
        let expected = 1.0 / (1.0 + (-1.0_f64).exp()) - 1.0;
        assert!((grad.double_value(&[0]) - expected).abs() < 1e-6);
        let again = told(|e| (api().loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap_err();
        let sentence = "`context` has served its one backward; run the forward again";
        assert_eq!(again, (abi::STATUS_POISONED, sentence.to_owned()));
        assert!(gradients.sequence_log_probs.is_null());
        (api().loss_context_free)(context);
        for tensor in [
            outputs.loss,
            outputs.sequence_log_probs,
            outputs.rewards,
            outputs.prompt_losses,
            outputs.dimension_losses,
            outputs.dimension_mask,
            outputs.accuracies,
            outputs.dimension_accuracies,
            outputs.margins,
        ] {
            assert!(!tensor.is_null());
            abi::tensor::free_tensor(tensor);
        }
    }
}

#[test]
fn a_missing_plugin_is_named_with_the_way_out() {
    let missing = fixture("no-such-library.so");
    let message = Plugin::load(Some(&missing)).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "the plugin liblambda_dpo.so is at none of {}; give its place with --plugin FILE or LAMBDA_DPO_PLUGIN",
            missing.display()
        )
    );
}

#[test]
fn autograd_mode_is_restored() {
    let plugin = Plugin::load(Some(&plugin_library())).unwrap();
    let problem = Problem::new(Kind::Float);
    let weight = Tensor::ones([2], (Kind::Float, tch::Device::Cpu)).set_requires_grad(true);
    let _ = plugin.loss_forward(&problem.exported(), &exported_options()).unwrap();
    assert!((&weight * 2.0).requires_grad());
    let _guard = tch::no_grad_guard();
    let _ = plugin.loss_forward(&problem.exported(), &exported_options()).unwrap();
    assert!(!(&weight * 2.0).requires_grad());
}
