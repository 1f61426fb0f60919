//! `lambda-dpo export`: the exported policy has the same scores, and no export is left half-written.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::golden_model::difference;
use tch::Kind;

/// Of sums of about 30 float32 log-probs; folding in the adapter changes the last bits of the weights.
const TOLERANCE: f32 = 1e-3;

#[test]
fn a_merged_model_scores_as_model_and_adapter() {
    let policy = Policy::with_adapter();
    policy.export(&["--to", "hf"], "merged");
    let merged = policy.score(&["--model", &policy.text("merged")]);
    let apart = policy.score(&["--model", &policy.text("model"), "--adapter", &policy.text("adapter")]);
    let without = policy.score(&["--model", &policy.text("model")]);
    assert!(difference(&apart, &without) > 1.0, "the adapter has no effect");
    let found = difference(&merged, &apart);
    assert!(found < TOLERANCE, "{found}");
}

#[test]
fn a_lambda_adapter_is_exported_at_a_lambda() {
    let policy = Policy::with_lambda_adapter();
    let lambda = ["--lambda", "honesty=0.7,helpfulness=0.1"];
    let (model, adapter) = (policy.text("model"), policy.text("adapter"));
    let live = policy.score(&[&["--model", &model, "--adapter", &adapter], &lambda[..]].concat());
    let uniform = policy.score(&["--model", &model, "--adapter", &adapter]);
    assert!(difference(&live, &uniform) > 1.0, "λ has no effect");
    policy.export(&["--to", "hf", lambda[0], lambda[1]], "merged");
    policy.export(&["--to", "peft", lambda[0], lambda[1]], "plain");
    policy.export(&["--to", "torchscript", lambda[0], lambda[1]], "script");
    for exported in [
        policy.score(&["--model", &policy.text("merged")]),
        policy.score(&["--model", &model, "--adapter", &policy.text("plain")]),
        policy.score(&["--model", &model, "--torchscript", &policy.text("script")]),
    ] {
        let found = difference(&exported, &live);
        assert!(found < TOLERANCE, "{found}");
    }
    policy.export(&["--to", "peft"], "uniform");
    let found = policy.score(&["--model", &model, "--adapter", &policy.text("uniform")]);
    assert!(difference(&found, &uniform) < TOLERANCE);
}

#[test]
fn a_graph_of_a_lambda_adapter_is_the_policy_at_that_lambda_only() {
    let policy = Policy::with_lambda_adapter();
    let (model, adapter, records) = (policy.text("model"), policy.text("adapter"), policy.text("records.jsonl"));
    policy.export(&["--to", "onnx", "--lambda", "honesty=1"], "graph");
    let compared = |lambda: &str| {
        let graph = policy.text("graph");
        let arguments = ["validate", "--device", "cpu", "--model", &model, "--adapter", &adapter, "--lambda", lambda];
        policy.try_run(&[&arguments[..], &["--records", &records, "--onnx", &graph]].concat()).status.code()
    };
    assert_eq!(compared("honesty=1"), Some(0));
    assert_eq!(compared("honesty=0.9"), Some(1));
}

#[test]
fn a_lambda_without_effect_is_refused() {
    let policy = Policy::with_lambda_adapter();
    let model = policy.text("model");
    let lambda = ["--lambda", "honesty=0.7,helpfulness=0.1"];
    policy.export(&["--to", "peft"], "plain");
    let to = |arguments: &[&str]| {
        policy.refuse(&[&["export", "--model", &model], arguments, &[&policy.text("refused")]].concat())
    };
    assert_eq!(to(&["--to", "peft"]), "error: --to peft writes an adapter: pass one with --adapter DIR");
    let lambda_without = to(&["--to", "hf", "--adapter", &policy.text("plain"), lambda[0], lambda[1]]);
    assert!(
        lambda_without.starts_with("error: --lambda needs an adapter of kind \"lambda_lora\", but "),
        "{lambda_without}"
    );
    assert_eq!(
        to(&["--to", "hf", lambda[0], lambda[1]]),
        "error: --lambda needs an adapter of kind \"lambda_lora\", but there is no adapter: leave --lambda out"
    );
    assert!(!policy.path("refused").exists());
    let records = policy.text("records.jsonl");
    let script =
        ["score", "--model", &model, "--records", &records, "--out", "scores.jsonl", "--torchscript", "script"];
    let output = policy.try_run(&[&script[..], &lambda].concat());
    assert_eq!(output.status.code(), Some(2), "a module already has its λ folded in");
}

#[test]
fn an_export_without_an_adapter_changes_no_bit() {
    let policy = Policy::with_adapter();
    policy.run(&["export", "--model", &policy.text("model"), "--to", "hf", &policy.text("out")]);
    assert_eq!(policy.score(&["--model", &policy.text("out")]), policy.score(&["--model", &policy.text("model")]));
    let read = |name: &str| fs::read(policy.path(name)).unwrap();
    assert!(read("out/model.safetensors") == read("model/model.safetensors"));
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(policy.path("out").join(name).is_file(), "{name}");
    }
}

/// The adapter is folded in float32 and rounded once, whatever the dtype.
#[test]
fn an_adapter_is_folded_in_float32() {
    let policy = Policy::with_adapter();
    policy.export(&["--to", "hf"], "wide");
    let wide = safetensors::read(&policy.path("wide/model.safetensors")).unwrap();
    for (dtype, kind) in [("bfloat16", Kind::BFloat16), ("float16", Kind::Half)] {
        policy.export(&["--to", "hf", "--dtype", dtype], dtype);
        let narrow = safetensors::read(&policy.path(dtype).join("model.safetensors")).unwrap();
        assert_eq!(narrow.len(), wide.len());
        assert!(narrow.iter().all(|(name, tensor)| tensor == &wide[name].to_kind(kind)), "{dtype}");
        let config = fs::read_to_string(policy.path(dtype).join("config.json")).unwrap();
        assert!(config.contains(&format!("dtype\": \"{dtype}\"")), "{config}");
    }
}

#[test]
fn a_chat_template_goes_with_the_policy() {
    let policy = Policy::with_adapter();
    let template = policy.path("own.jinja");
    fs::write(&template, "{% for message in messages %}{{ message.content }}{% endfor %}").unwrap();
    policy.export(&["--to", "hf", "--chat-template", template.to_str().unwrap()], "out");
    assert_eq!(fs::read(policy.path("out/chat_template.jinja")).unwrap(), fs::read(&template).unwrap());
    let template = template.to_str().unwrap();
    let model = policy.text("out");
    assert_eq!(policy.score(&["--model", &model]), policy.score(&["--model", &model, "--chat-template", template]));
}

#[test]
fn a_failed_export_says_why_and_leaves_nothing_behind() {
    let policy = Policy::with_adapter();
    let model = policy.text("model");
    let out = policy.text("out");
    let refused = |arguments: &[&str], expected: &str| {
        let before = policy.listing();
        let arguments = [&["export", "--model", &model, "--to", "hf"], arguments].concat();
        let message = policy.refuse(&arguments);
        assert_eq!(message, format!("error: {}", expected.replace("{}", &policy.text(""))));
        assert_eq!(policy.listing(), before);
    };
    refused(&[&model], "{}model exists already; choose another folder to export to, or delete it first");
    refused(
        &["--adapter", "no/such/adapter", &out],
        "no/such/adapter has no adapter_config.json; an adapter in PEFT's format has adapter_config.json and \
         adapter_model.safetensors",
    );
    refused(
        &["--chat-template", "no/such.jinja", &out],
        "could not read no/such.jinja: No such file or directory (os error 2)",
    );
    policy.change_weight("model.layers.0.mlp.up_proj.weight", 1e5);
    refused(
        &["--dtype", "float16", &out],
        "`model.layers.0.mlp.up_proj.weight` has values that float16 cannot hold (beyond ±65504, or not finite); export in \
         float32 or bfloat16",
    );
}
