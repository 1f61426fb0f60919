//! `lambda-dpo export`: the exported policy has the same scores, and no export is left half-written.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;

use lambda_dpo_host::files::safetensors;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::Model;
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::golden_model::{self, difference};
use serde_json::Value;
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

/// Reads `lambda.json`: each adapter's folder, dimension, rank and uniform scale, after checking the fields beside them.
fn described(policy: &Policy, out: &str) -> Vec<(String, Value, i64, f64)> {
    let text = fs::read_to_string(policy.path(out).join("lambda.json")).unwrap();
    let lambda: Value = serde_json::from_str(&text).unwrap();
    let adapters = lambda["adapters"].as_array().unwrap();
    let named: Vec<&Value> =
        adapters.iter().map(|adapter| &adapter["dimension"]).filter(|name| name.is_string()).collect();
    assert_eq!(named, lambda["dimensions"].as_array().unwrap().iter().collect::<Vec<_>>());
    let read = |adapter: &Value| {
        let folder = adapter["folder"].as_str().unwrap().to_owned();
        (
            folder,
            adapter["dimension"].clone(),
            adapter["rank"].as_i64().unwrap(),
            adapter["uniform_scale"].as_f64().unwrap(),
        )
    };
    let read: Vec<_> = adapters.iter().map(read).collect();
    let shared = read.iter().find(|(_, dimension, ..)| dimension.is_null()).map(|(folder, ..)| folder.as_str());
    assert_eq!(lambda["shared"].as_str(), shared);
    read
}

#[test]
fn a_lambda_adapter_is_split_into_loras() {
    let policy = Policy::with_lambda_adapter();
    policy.export(&["--to", "loras"], "loras");
    let adapters = described(&policy, "loras");
    let dimensions = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
    let own = dimensions.map(|name| (name.to_owned(), Value::from(name), 2, 0.25));
    assert_eq!(adapters, [&[("shared".to_owned(), Value::Null, 4, 1.0)][..], &own].concat());
    let whole = safetensors::read(&policy.path("adapter/adapter_model.safetensors")).unwrap();
    let mut start = 0;
    for (folder, _, rank, _) in &adapters {
        let folder = policy.path("loras").join(folder);
        let part = safetensors::read(&folder.join("adapter_model.safetensors")).unwrap();
        assert_eq!(part.len(), whole.len());
        for (name, tensor) in &part {
            let dimension = i64::from(!name.contains("lora_A"));
            assert_eq!(tensor, &whole[name].narrow(dimension, start, *rank), "{name}");
        }
        start += rank;
        let config: Value =
            serde_json::from_str(&fs::read_to_string(folder.join("adapter_config.json")).unwrap()).unwrap();
        assert_eq!((&config["peft_type"], config["r"].as_i64()), (&Value::from("LORA"), Some(*rank)));
        // Alpha 8 for rank 2 of each dimension is a scaling of 4.
        assert_eq!(config["lora_alpha"].as_i64(), Some(4 * rank), "{config}");
        assert_eq!(config["lora_dropout"].as_f64(), Some(0.0));
    }
    // Each LoRA is one that `score` takes.
    let model = policy.text("model");
    let shared = policy.score(&["--model", &model, "--adapter", &policy.text("loras/shared")]);
    assert!(difference(&shared, &policy.score(&["--model", &model])) > 1.0);
}

#[test]
fn without_a_shared_part_the_loras_are_a_soup() {
    let policy = Policy::with_lambda_adapter_of_rank(0);
    policy.export(&["--to", "loras"], "loras");
    let adapters = described(&policy, "loras");
    assert_eq!(adapters.len(), 4);
    assert!(!policy.path("loras/shared").exists());
    let load = || Model::load(&policy.path("model"), Libtorch::cpu(), Kind::Double).unwrap();
    let lambda = [0.4, 0.3, 0.2, 0.1];
    let hidden = |mut model: Model| {
        model.fix_lambda(&lambda).unwrap();
        model.merge_adapter().unwrap();
        let tensors = golden_model::Golden::of("llama31").rows().tensors();
        model.hidden(&golden_model::inputs(&tensors)).unwrap()
    };
    let mut soup = load();
    let folders = adapters.iter().map(|(folder, ..)| (folder.clone(), policy.path("loras").join(folder)));
    soup.load_soup(&folders.collect::<Vec<_>>()).unwrap();
    let mut whole = load();
    whole.load_adapter(&policy.path("adapter")).unwrap();
    assert_eq!(hidden(soup), hidden(whole), "the soup has the same columns in the same order");
}

#[test]
fn loras_are_of_a_lambda_adapter_at_no_lambda() {
    let policy = Policy::with_lambda_adapter();
    policy.export(&["--to", "peft"], "plain");
    let (model, out) = (policy.text("model"), policy.text("refused"));
    let refused = |arguments: &[&str], expected: &str| {
        let export = ["export", "--model", &model, "--to", "loras", &out];
        assert_eq!(policy.refuse(&[&export, arguments].concat()), format!("error: {expected}"));
        assert!(!policy.path("refused").exists());
    };
    let adapter = policy.text("adapter");
    refused(&[], "--to loras writes an adapter: pass one with --adapter DIR");
    refused(
        &["--adapter", &adapter, "--dtype", "bfloat16"],
        "--to loras always writes the adapter in float32: leave --dtype out",
    );
    refused(
        &["--adapter", &adapter, "--lambda", "honesty=1"],
        "--to loras writes the adapter for every λ: leave --lambda out, or export --to peft",
    );
    refused(
        &["--adapter", &policy.text("plain")],
        "--to loras splits an adapter of kind \"lambda_lora\", which this one is not: use --to peft",
    );
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
    let exists = "{}model exists already; choose another folder to export to, or delete it first";
    refused(&[&model], exists);
    // What a process left that was killed when the folder was complete goes, and the folder stays.
    let left = [".model.partial", ".model.partial.lock"].map(|name| policy.path(name));
    let before = policy.listing();
    for path in &left {
        fs::write(path, "1").unwrap();
    }
    assert_eq!(
        policy.refuse(&["export", "--model", &model, "--to", "hf", &model]),
        format!("error: {}", exists.replace("{}", &policy.text("")))
    );
    assert_eq!(policy.listing(), before);
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
