//! TorchScript policies: exported ones at several shapes, one exported by Python, and files that are refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::Model;
use lambda_dpo_host::policy::{LogitsPolicy, TorchScriptPolicy};
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::golden_model::{FAMILIES, difference, inputs};
use tch::{CModule, Device, Kind, Tensor};

/// Rows and tokens; the last two tokens of the last row are padding.
const SHAPES: [(i64, i64); 3] = [(1, 5), (2, 30), (3, 17)];

/// `input_ids`, `attention_mask`, `position_ids`, `prompt_ids`, `sequence_ids`.
fn batch((rows, tokens): (i64, i64)) -> [Tensor; 5] {
    let numbers = Tensor::arange(rows * tokens, (Kind::Int64, Device::Cpu)).view([rows, tokens]);
    let mask = Tensor::ones([rows, tokens], (Kind::Int64, Device::Cpu));
    let _ = mask.select(0, rows - 1).narrow(0, tokens - 2, 2).fill_(0);
    let prompts = &mask - 1;
    [
        (numbers * 37 + 11).remainder(120) + 3,
        mask,
        Tensor::arange(tokens, (Kind::Int64, Device::Cpu)).expand([rows, tokens], false),
        prompts.shallow_clone(),
        prompts,
    ]
}

#[test]
fn a_module_gives_the_models_logits_at_any_shape() {
    for family in FAMILIES {
        let policy = Policy::of_family(family);
        policy.export_plain(&["--to", "torchscript"], "out");
        let script = TorchScriptPolicy::open(&policy.path("out"), Libtorch::cpu()).unwrap();
        let model = Model::load(&policy.path("model"), Libtorch::cpu(), Kind::Float).unwrap();
        for shape in SHAPES {
            let [ids, mask, positions, prompts, sequences] = batch(shape);
            let found = script.logits([&ids, &mask, &positions]).unwrap();
            let tensors = [ids, positions, prompts, sequences];
            let hidden = model.hidden(&inputs(&tensors)).unwrap();
            let expected = tch::no_grad(|| hidden.linear(model.lm_head(), None::<Tensor>));
            let difference = ((found - expected) * mask.unsqueeze(-1)).abs().max().double_value(&[]);
            assert!(difference < 2e-5, "{family}, {shape:?}: {difference}");
        }
        let names: Vec<String> = script.named_parameters().unwrap().into_iter().map(|(name, _)| name).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = model.named_parameters().map(|(name, _)| name.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}

#[test]
fn a_module_scores_as_its_model() {
    let policy = Policy::with_adapter();
    policy.export(&["--to", "torchscript"], "out");
    let (model, adapter, out) = (policy.text("model"), policy.text("adapter"), policy.text("out"));
    let expected = policy.score(&["--model", &model, "--adapter", &adapter]);
    assert!(difference(&policy.score(&["--model", &model, "--torchscript", &out]), &expected) < 1e-3);
    // The exported folder has the tokenizer as well.
    assert!(difference(&policy.score(&["--model", &out, "--torchscript", &out]), &expected) < 1e-3);
}

#[test]
fn a_module_exported_by_python_gives_pythons_logits() {
    let folder = fixture("golden/exports/gpt");
    let script = TorchScriptPolicy::open(&folder, Libtorch::cpu()).unwrap();
    assert_eq!((script.vocab_size(), script.kind()), (31, Kind::Float));
    let golden = safetensors::read(&folder.join("golden.safetensors")).unwrap();
    for number in 0..3 {
        let value = |name: &str| &golden[&format!("{number}.{name}")];
        let found = script.logits([value("input_ids"), value("attention_mask"), value("position_ids")]).unwrap();
        let difference = (found - value("logits")).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{number}: {difference}");
    }
}

fn message(path: &Path) -> String {
    let message = TorchScriptPolicy::open(path, Libtorch::cpu()).unwrap_err().to_string();
    message.replace(&path.display().to_string(), "SCRIPT")
}

/// Saves a module of three inputs that computes its result from the first.
fn save_traced(path: &Path, result: impl Fn(&Tensor) -> Tensor) {
    let example = Tensor::ones([2, 3], (Kind::Int64, Device::Cpu));
    let mut closure = |tensors: &[Tensor]| vec![result(&tensors[0])];
    let inputs = [example.shallow_clone(), example.shallow_clone(), example];
    CModule::create_by_tracing("Traced", "forward", &inputs, &mut closure).unwrap().save(path).unwrap();
}

#[test]
fn files_that_do_not_fit_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    assert_eq!(message(&path), "could not read SCRIPT: No such file or directory (os error 2)");
    fs::write(&path, "no module").unwrap();
    let text = message(&path);
    assert!(text.starts_with("SCRIPT: it is not a TorchScript file, or is damaged ("), "{text}");
    let whole = fs::read(fixture("golden/exports/gpt/model.pt")).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let text = message(&path);
    assert!(text.starts_with("SCRIPT: it is not a TorchScript file, or is damaged ("), "{text}");

    save_traced(&path, |ids| ids.to_kind(Kind::Float));
    assert_eq!(
        message(&path),
        "SCRIPT: for tokens [2, 3] it returns Float [2, 3] instead of logits [2, 3, vocabulary]; export it again"
    );
    let example = Tensor::ones([2, 3], (Kind::Int64, Device::Cpu));
    let mut closure = |tensors: &[Tensor]| vec![tensors[0].to_kind(Kind::Float)];
    CModule::create_by_tracing("Traced", "forward", &[example], &mut closure).unwrap().save(&path).unwrap();
    let text = message(&path);
    assert!(
        text.starts_with("SCRIPT: its forward does not run on input_ids, attention_mask and position_ids of [2, 3] ("),
        "{text}"
    );
    assert!(text.ends_with("); export a module that takes these three"), "{text}");
    assert!(text.contains("at most 2 argument(s)"), "{text}");
}
