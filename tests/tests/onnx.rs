//! ONNX policies: the graph of every family, detection of damaged graphs, and files that are refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lambda_dpo_host::export::onnx::{self, MODEL_FILE};
use lambda_dpo_host::files::onnx_proto::{
    AttributeProto, DimensionSize, EXTERNAL, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto,
    ValueInfoProto,
};
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::Model;
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::golden_model::FAMILIES;
use prost::Message;
use serde_json::Value;
use tch::Kind;

/// Largest difference allowed in a token's log-prob, from the contract; measured 6e-6 and 8e-3.
const TOLERANCES: [(&str, f64); 2] = [("float32", 1e-4), ("float16", 2e-2)];

#[test]
fn every_family_gives_the_models_log_probs() {
    for family in FAMILIES {
        let policy = Policy::of_family(family);
        for (dtype, tolerance) in TOLERANCES {
            policy.export_plain(&["--to", "onnx", "--dtype", dtype], dtype);
            let (code, report) = policy.validate(&policy.path(dtype));
            let found = report["token_log_probs"]["max"].as_f64().unwrap();
            assert!(found <= tolerance, "{family}, {dtype}: {found}");
            assert_eq!((code, &report["passed"]), (0, &Value::Bool(true)));
            assert_eq!((&report["dtype"], &report["tolerance"]), (&dtype.into(), &tolerance.into()));
            assert_eq!((&report["opset"], &report["ir_version"]), (&18.into(), &8.into()));
            assert_eq!((&report["num_records"], &report["num_responses"]), (&5.into(), &15.into()));
            assert_eq!(report["ranking"]["num_different"], 0);
            let loss = &report["loss"];
            assert!((loss["model"].as_f64().unwrap() - loss["policy"].as_f64().unwrap()).abs() < tolerance);
        }
    }
}

#[test]
fn the_printed_table_ends_with_the_verdict() {
    let policy = Policy::of_family("qwen3");
    policy.export_plain(&["--to", "onnx"], "out");
    let (model, records, out) = (policy.text("model"), policy.text("records.jsonl"), policy.text("out"));
    let arguments = ["validate", "--device", "cpu", "--model", &model, "--records", &records, "--onnx", &out];
    let text = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let passed = text(policy.run(&arguments));
    assert!(passed.contains("compared        5 records, 15 responses, 155 tokens\n"), "{passed}");
    assert!(passed.ends_with("passed at a tolerance of 1e-4 per token\n"), "{passed}");
    let output = policy.try_run(&[&arguments[..], &["--tolerance", "1e-12"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(output).ends_with("FAILED at a tolerance of 1e-12 per token\n"));
}

#[test]
fn a_graph_that_python_exported_validates() {
    let policy = Policy::of_family("llama31");
    let (code, report) = policy.validate(&fixture("golden/exports/llama31.onnx"));
    assert_eq!(code, 0, "{report}");
    assert!(report["token_log_probs"]["max"].as_f64().unwrap() < 1e-4, "{report}");
}

/// Writes a copy of the exported graph with a change.
fn changed(policy: &Policy, change: impl Fn(&mut GraphProto)) -> PathBuf {
    let mut model = read(&policy.path("out").join(MODEL_FILE));
    change(model.graph.as_mut().unwrap());
    let path = policy.path("changed.onnx");
    fs::write(&path, model.encode_to_vec()).unwrap();
    path
}

fn read(path: &Path) -> ModelProto {
    ModelProto::decode(fs::read(path).unwrap().as_slice()).unwrap()
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    let bytes = tensor.raw_data.as_ref().unwrap().chunks_exact(4);
    bytes.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn set(graph: &mut GraphProto, name: &str, change: impl Fn(f32) -> f32) {
    let tensor = graph.initializer.iter_mut().find(|tensor| tensor.name == name).unwrap();
    tensor.raw_data = Some(floats(tensor).into_iter().flat_map(|value| change(value).to_le_bytes()).collect());
}

#[test]
fn damage_is_detected_and_the_worst_record_named() {
    let policy = Policy::of_family("qwen2");
    policy.export_plain(&["--to", "onnx"], "out");
    let weight = "model.layers.1.mlp.down_proj.weight";
    let one_weight = |graph: &mut GraphProto| {
        let tensor = graph.initializer.iter_mut().find(|tensor| tensor.name == weight).unwrap();
        let mut values = floats(tensor);
        values[100] += 0.05;
        tensor.raw_data = Some(values.iter().flat_map(|value| value.to_le_bytes()).collect());
    };
    // A base of 990,000 instead of 1,000,000, as from a typo in config.json.
    let rope_base = |graph: &mut GraphProto| {
        set(graph, "rotary.inv_freq", |frequency| frequency.powf(990_000_f32.ln() / 1_000_000_f32.ln()));
    };
    let attention_bias = |graph: &mut GraphProto| {
        let is_k_proj = |node: &&mut NodeProto| node.name == "model.layers.0.self_attn.v_proj";
        assert_eq!(
            graph.node.iter_mut().find(is_k_proj).unwrap().input.pop().unwrap(),
            "model.layers.0.self_attn.v_proj.bias"
        );
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&mut GraphProto));
    let damages: [Damage; 3] =
        [("one weight", &one_weight), ("the RoPE base", &rope_base), ("the attention bias", &attention_bias)];
    for (what, damage) in damages {
        let (code, report) = policy.validate(&changed(&policy, damage));
        assert_eq!((code, &report["passed"]), (1, &Value::Bool(false)), "{what}: {report}");
        let worst = &report["worst"];
        let difference = (worst["model"].as_f64().unwrap() - worst["policy"].as_f64().unwrap()).abs();
        assert_eq!(report["token_log_probs"]["max"], difference, "{what}");
        assert!(worst["record"].as_u64().unwrap() < 5 && worst["response"].as_u64().unwrap() < 3, "{what}: {worst}");
    }
}

/// The error for a graph, with OUT for the path of its file.
fn message(policy: &Policy, onnx: &Path) -> String {
    let (model, records, onnx) = (policy.text("model"), policy.text("records.jsonl"), onnx.display().to_string());
    let arguments = ["validate", "--device", "cpu", "--model", &model, "--records", &records, "--onnx", &onnx];
    policy.refuse(&arguments).replace(&onnx, "OUT").replace(&policy.text(""), "")
}

#[test]
fn files_that_do_not_fit_are_refused_with_a_reason() {
    let policy = Policy::of_family("llama2");
    policy.export_plain(&["--to", "onnx"], "out");
    assert_eq!(
        message(&policy, &policy.path("missing.onnx")),
        "error: could not read OUT: No such file or directory (os error 2)"
    );
    fs::write(policy.path("pointer.onnx"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(message(&policy, &policy.path("pointer.onnx")).starts_with("error: OUT is a Git LFS pointer, "));
    fs::write(policy.path("text.onnx"), "<!doctype html>\n").unwrap();
    let text = message(&policy, &policy.path("text.onnx"));
    assert!(text.starts_with("error: OUT: it is not an ONNX file, or is damaged ("), "{text}");
    let half = fs::read(policy.path("out").join(MODEL_FILE)).unwrap();
    fs::write(policy.path("half.onnx"), &half[..half.len() / 2]).unwrap();
    let text = message(&policy, &policy.path("half.onnx"));
    assert!(text.starts_with("error: OUT: it is not an ONNX file, or is damaged ("), "{text}");

    let renamed = changed(&policy, |graph| {
        graph.input[2].name = "past_key_values.0.key".to_owned();
        for node in &mut graph.node {
            node.input
                .iter_mut()
                .filter(|name| *name == "position_ids")
                .for_each(|name| *name = "past_key_values.0.key".into());
        }
    });
    assert_eq!(
        message(&policy, &renamed),
        "error: OUT: its inputs are `input_ids`, `attention_mask`, `past_key_values.0.key`, but a policy has exactly \
         `input_ids`, `attention_mask`, `position_ids`; export it without a key-value cache"
    );
    let hidden = changed(&policy, |graph| {
        graph.output[0].name = "last_hidden_state".to_owned();
        graph.node.last_mut().unwrap().output[0] = "last_hidden_state".to_owned();
    });
    assert_eq!(
        message(&policy, &hidden),
        "error: OUT: its outputs are `last_hidden_state`, but a policy has `logits`; export it with its LM head"
    );
    let mut model = read(&policy.path("out").join(MODEL_FILE));
    model.opset_import[0].version = 999;
    fs::write(policy.path("future.onnx"), model.encode_to_vec()).unwrap();
    let text = message(&policy, &policy.path("future.onnx"));
    assert!(text.starts_with("error: OUT: ONNX Runtime rejects it ("), "{text}");
    assert!(text.ends_with("; its opset is 999, its IR version 8; export it again, or use a newer runtime"), "{text}");
}

#[test]
fn truncated_and_missing_external_weights_are_reported() {
    let policy = Policy::of_family("mistral");
    let folder = policy.path("out");
    fs::create_dir(&folder).unwrap();
    let model = Model::load(&policy.path("model"), Libtorch::cpu(), Kind::Float).unwrap();
    onnx::write(&model, &policy.path("model"), &folder, 1000).unwrap();
    let (code, report) = policy.validate(&folder);
    assert_eq!(code, 0, "{report}");

    let data = folder.join(onnx::DATA_FILE);
    let bytes = fs::read(&data).unwrap();
    fs::write(&data, &bytes[..bytes.len() - 1]).unwrap();
    let file = folder.join(MODEL_FILE);
    assert_eq!(
        message(&policy, &file),
        format!(
            "error: OUT: its weights OUT.data are cut short: `lm_head.weight` ends at byte {}, but there are {}; copy or \
             export them again",
            bytes.len(),
            bytes.len() - 1
        )
    );
    fs::remove_file(&data).unwrap();
    assert_eq!(
        message(&policy, &file),
        "error: OUT: its weights OUT.data are missing (No such file or directory (os error 2)); copy both files"
    );
}

#[test]
fn external_weights_cannot_leave_the_folder() {
    let policy = Policy::of_family("llama2");
    let folder = policy.path("out");
    fs::create_dir(&folder).unwrap();
    let model = Model::load(&policy.path("model"), Libtorch::cpu(), Kind::Float).unwrap();
    onnx::write(&model, &policy.path("model"), &folder, 1000).unwrap();
    let secret = policy.path("secret");
    fs::copy(folder.join(onnx::DATA_FILE), &secret).unwrap();
    std::os::unix::fs::symlink(&secret, folder.join("link")).unwrap();
    let file = folder.join(MODEL_FILE);
    let whole = read(&file);
    let entry = |key: &str, value: &str| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    for location in ["../secret", secret.to_str().unwrap(), "link"] {
        let mut model = whole.clone();
        let graph = model.graph.as_mut().unwrap();
        let weight = graph.initializer.iter_mut().find(|tensor| tensor.data_location == EXTERNAL).unwrap();
        weight.external_data[0] = entry("location", location);
        fs::write(&file, model.encode_to_vec()).unwrap();
        let text = message(&policy, &file);
        let location = location.replace(&policy.text(""), "");
        assert!(text.starts_with(&format!("error: OUT: it names the file `{location}`, ")), "{text}");
        assert!(text.contains("but only files in its own folder and below are read; "), "{text}");
    }
    // A constant of a node, which is no weight of the graph: field 5 of an attribute is a tensor.
    let tensor = TensorProto {
        name: "hidden".into(),
        data_location: EXTERNAL,
        external_data: vec![entry("location", "../secret"), entry("length", "4")],
        ..TensorProto::default()
    };
    let field = |number: u8, content: Vec<u8>| {
        let length = u8::try_from(content.len()).unwrap();
        assert!(length < 128, "its length is one byte");
        [vec![number << 3 | 2, length], content].concat()
    };
    let node = field(5, field(5, tensor.encode_to_vec()));
    // The parts of a repeated field are merged, so this is one more node of the graph.
    let graph = field(7, field(1, node));
    fs::write(&file, [whole.encode_to_vec(), graph].concat()).unwrap();
    let text = message(&policy, &file);
    assert!(text.starts_with("error: OUT: it names the file `../secret`, "), "{text}");
}

#[test]
fn a_refused_export_leaves_nothing_behind() {
    let policy = Policy::of_family("llama2");
    let (model, out) = (policy.text("model"), policy.text("out"));
    let message = policy.refuse(&["export", "--model", &model, "--to", "onnx", "--dtype", "bfloat16", &out]);
    assert_eq!(
        message,
        "error: ONNX is written in float32 or float16: the CPU provider of ONNX Runtime does not compute in bfloat16; choose \
         one with --dtype"
    );
    assert_eq!(policy.listing(), ["model", "records.jsonl"]);
}

/// The runtime is opened before anything else is loaded.
#[test]
fn a_library_that_is_not_the_runtime_is_reported_at_once() {
    let policy = Policy::of_family("llama2");
    let no_runtime = |path: &str| {
        policy.refuse(&["validate", "--model", "none", "--records", "none", "--onnx", "none", "--onnxruntime", path])
    };
    assert_eq!(
        no_runtime("no/such.so"),
        "error: ONNX Runtime was not found at no/such.so; run make setup, install the Python package onnxruntime, or name \
         the library with --onnxruntime FILE or ORT_DYLIB_PATH"
    );
    let text = policy.text("records.jsonl");
    let message = no_runtime(&text);
    assert!(message.starts_with(&format!("error: {text} is not a library of ONNX Runtime: ")), "{message}");
    assert!(message.contains("file too short") || message.contains("invalid ELF header"), "{message}");
}

/// To open a policy is to call libtorch, which then no longer finds a device that was not prepared.
#[test]
fn the_device_is_prepared_before_a_policy_is_opened() {
    let arguments = ["validate", "--device", "gpu", "--model", "none", "--records", "none", "--onnx", "none"];
    let message = Policy::of_family("llama2").refuse(&[&arguments[..], &["--onnxruntime", "no/such.so"]].concat());
    assert!(message.starts_with("error: device = \"gpu\" is not a device; use"), "{message}");
}

/// The library reports version 1.10, as ONNX Runtime 1.10 does.
#[test]
fn a_runtime_that_is_too_old_is_reported_with_both_versions() {
    let policy = Policy::of_family("llama2");
    let source = policy.path("old.c");
    fs::write(
        &source,
        r#"#include <stdint.h>
        static const void *api(uint32_t version) { (void)version; return 0; }
        static const char *version(void) { return "1.10.0"; }
        static const struct { const void *(*api)(uint32_t); const char *(*version)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }"#,
    )
    .unwrap();
    let library = policy.path("libonnxruntime.so");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let status = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(status.success());
    let library = policy.text("libonnxruntime.so");
    let message = policy.refuse(&[
        "validate",
        "--model",
        "none",
        "--records",
        "none",
        "--onnx",
        "none",
        "--onnxruntime",
        &library,
    ]);
    assert!(
        message.starts_with(&format!("error: {library} is ONNX Runtime 1.10.0, which is too old: 1.")),
        "{message}"
    );
}

/// One line for each node; of later layers only the lines that differ from the first layer in more than the layer
/// number.
fn structure(graph: &GraphProto) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        text += &format!("{title}\n{}\n", lines.iter().map(|line| format!("  {line}\n")).collect::<String>());
    };
    section("inputs", graph.input.iter().map(describe_value).collect());
    section("outputs", graph.output.iter().map(describe_value).collect());
    let of_layer =
        |name: &str| name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
    // Within a layer the common prefix of its names is left out.
    let own = |layer: Option<usize>| -> Vec<String> {
        let nodes = graph.node.iter().filter(|node| of_layer(&node.name) == layer).map(describe_node);
        let tensors = graph.initializer.iter().filter(|tensor| of_layer(&tensor.name) == layer);
        let tensors = tensors.map(|tensor| format!("{} {:?} type {}", tensor.name, tensor.dims, tensor.data_type));
        let path = layer.map_or("no layer".to_owned(), |layer| format!("model.layers.{layer}."));
        nodes.chain(tensors).map(|line| line.replace(&path, "")).collect()
    };
    section("outside the layers", own(None));
    let first = own(Some(0));
    section("layer 0", first.clone());
    for layer in (1..).take_while(|layer| !own(Some(*layer)).is_empty()) {
        let input = format!("model.layers.{}.mlp.residual", layer - 1);
        let lines = own(Some(layer)).into_iter().map(|line| line.replace(&input, "hidden"));
        let differences = lines.zip(&first).filter(|(line, first)| line != *first).map(|(line, _)| line);
        section(&format!("layer {layer}, where it differs"), differences.collect());
    }
    text
}

fn describe_value(value: &ValueInfoProto) -> String {
    let tensor = value.r#type.as_ref().unwrap().tensor_type.as_ref().unwrap();
    let dims = tensor.shape.as_ref().unwrap().dim.iter().map(|dim| match dim.size.as_ref().unwrap() {
        DimensionSize::Value(size) => size.to_string(),
        DimensionSize::Param(name) => name.clone(),
    });
    format!("{} [{}] type {}", value.name, dims.collect::<Vec<_>>().join(", "), tensor.elem_type)
}

fn describe_node(node: &NodeProto) -> String {
    let attribute = |attribute: &AttributeProto| match attribute.i {
        Some(value) => format!(" {}={value}", attribute.name),
        None => format!(" {}={:?}", attribute.name, attribute.ints),
    };
    let attributes: String = node.attribute.iter().map(attribute).collect();
    format!("{} = {}{attributes} ← {}", node.output.join(", "), node.op_type, node.input.join(", "))
}

#[test]
fn graphs_are_structured_as_committed() {
    for family in FAMILIES {
        let policy = Policy::of_family(family);
        policy.export_plain(&["--to", "onnx"], "out");
        let model = read(&policy.path("out").join(MODEL_FILE));
        insta::assert_snapshot!(format!("onnx_{family}"), structure(&model.graph.unwrap()));
    }
}
