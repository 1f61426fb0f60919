//! Memory does not grow with the number of records: `make test-big` shows it for 2 GB, this for a few MB. An export
//! needs little more memory than its weights.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};

use lambda_dpo_host::export::onnx::{DATA_FILE, MODEL_FILE};
use lambda_dpo_host::files::onnx_proto::ModelProto;
use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::policy::{LogitsPolicy, OnnxPolicy};
use lambda_dpo_tests::trainer::Run;
use lambda_dpo_tests::{fixture, program};

const MIB: u64 = 1 << 20;
/// Growth allowed for four times the records: an index, and variation of the allocator.
const GROWTH: u64 = 24 * MIB;

/// Writes different records of about 8 KB each until the file has `bytes`.
fn write_records(path: &Path, bytes: u64) {
    let demo = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
    let mut record: Value = serde_json::from_str(demo.lines().nth(2).unwrap()).unwrap();
    let completions = record["completions"].as_array_mut().unwrap();
    assert_eq!(completions.len(), 4);
    for completion in completions {
        let response =
            completion["response"].as_str().unwrap().repeat(2000 / completion["response"].as_str().unwrap().len());
        completion["response"] = json!(response);
    }
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut written = 0;
    for number in 0.. {
        record["instruction"] = json!(format!("What is known about animal {number}?"));
        let line = record.to_string();
        writeln!(file, "{line}").unwrap();
        written += line.len() as u64 + 1;
        if written >= bytes {
            break;
        }
    }
}

/// Runs a command and returns its peak resident memory.
fn peak_bytes(command: &mut Command) -> u64 {
    let mut process = command.stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak);
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success());
            assert!(peak > 0);
            return peak * 1024;
        }
        sleep(Duration::from_millis(2));
    }
}

fn assert_steady(what: &str, peaks: [u64; 2]) {
    let [few, many] = peaks.map(|bytes| bytes / MIB);
    assert!(peaks[1] <= peaks[0] + GROWTH, "{what}: {few} MiB became {many} MiB");
}

#[test]
fn conversion_keeps_no_records() {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records.jsonl");
    let peaks = [15, 60].map(|mib| {
        write_records(&records, mib * MIB);
        let mut command = program(&folder.path().join("cache"));
        command.arg("convert").arg("--records").arg(&records).arg("--out").arg(folder.path().join("out.jsonl"));
        peak_bytes(&mut command)
    });
    assert_steady("convert", peaks);
}

#[test]
fn tokenisation_keeps_no_records() {
    let run = Run::new("lambda_dpo");
    let peaks = [4, 16].map(|mib| {
        write_records(&run.path("records.jsonl"), mib * MIB);
        let output_dir = format!("output_dir={}", run.path(&format!("run-{mib}")).display());
        // One step, because a whole epoch would take long.
        peak_bytes(&mut run.command(&["train.max_steps=1", "reference.kind=none", "data.cutoff_len=64", &output_dir]))
    });
    assert_steady("tokenisation", peaks);
}

/// Names and shapes of the weights of a Llama of more than 2 GiB without large tensors.
fn large_weights(num_layers: i64) -> Vec<(String, [i64; 2])> {
    const HIDDEN: i64 = 1024;
    const INTERMEDIATE: i64 = 8192;
    const VOCAB: i64 = 32000;
    let mut weights = vec![("model.embed_tokens.weight".to_owned(), [VOCAB, HIDDEN])];
    for layer in 0..num_layers {
        let mut weight = |name: &str, shape| weights.push((format!("model.layers.{layer}.{name}.weight"), shape));
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            weight(&format!("self_attn.{name}"), [HIDDEN, HIDDEN]);
        }
        weight("mlp.gate_proj", [INTERMEDIATE, HIDDEN]);
        weight("mlp.up_proj", [INTERMEDIATE, HIDDEN]);
        weight("mlp.down_proj", [HIDDEN, INTERMEDIATE]);
        weight("input_layernorm", [HIDDEN, 1]);
        weight("post_attention_layernorm", [HIDDEN, 1]);
    }
    weights.push(("model.norm.weight".to_owned(), [HIDDEN, 1]));
    weights.push(("lm_head.weight".to_owned(), [VOCAB, HIDDEN]));
    weights
}

/// Writes such a model as a sparse file, with one value in each weight that is not 0. Returns the size of the weights
/// in bytes.
fn write_large_model(folder: &Path, num_layers: i64) -> u64 {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 8192,
        "num_hidden_layers": num_layers, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut header = serde_json::Map::new();
    let mut values = Vec::new();
    let mut end = 0;
    for (number, (name, shape)) in large_weights(num_layers).into_iter().enumerate() {
        let start = end;
        end += 4 * (shape[0] * shape[1]) as u64;
        let shape = if shape[1] == 1 { vec![shape[0]] } else { shape.to_vec() };
        header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] }));
        values.push((start, 1e-3 * (number + 1) as f32));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let data = 8 + header.len() as u64;
    file.set_len(data + end).unwrap();
    for (start, value) in values {
        file.write_all_at(&value.to_le_bytes(), data + start).unwrap();
    }
    end
}

#[test]
fn an_export_of_more_than_two_gib_holds_the_weights_once() {
    const NUM_LAYERS: i64 = 17;
    let folder = tempfile::tempdir().unwrap();
    let weights_bytes = write_large_model(folder.path(), NUM_LAYERS);
    assert!(weights_bytes > 2 << 30);
    let out = folder.path().join("out");
    let mut command = program(&folder.path().join("cache"));
    command.args(["export", "--to", "onnx", "--model"]).arg(folder.path()).arg(&out);
    let peak = peak_bytes(&mut command);
    assert!(peak * 10 < weights_bytes * 13, "{} MiB for weights of {} MiB", peak / MIB, weights_bytes / MIB);

    assert!(fs::metadata(out.join(MODEL_FILE)).unwrap().len() < MIB);
    let model = ModelProto::decode(fs::read(out.join(MODEL_FILE)).unwrap().as_slice()).unwrap();
    let initializers = model.graph.unwrap().initializer;
    let data = File::open(out.join(DATA_FILE)).unwrap();
    for (number, (name, _)) in large_weights(NUM_LAYERS).into_iter().enumerate() {
        let tensor = initializers.iter().find(|tensor| tensor.name == name).unwrap();
        let entry = |key: &str| tensor.external_data.iter().find(|entry| entry.key == key).unwrap().value.clone();
        let offset: u64 = entry("offset").parse().unwrap();
        assert_eq!((entry("location").as_str(), offset % 4096), (DATA_FILE, 0));
        let mut value = [0; 4];
        data.read_exact_at(&mut value, offset).unwrap();
        assert_eq!(f32::from_le_bytes(value), 1e-3 * (number + 1) as f32, "{name}");
    }
    // The runtime can map the weights and run the graph.
    let policy = OnnxPolicy::open(&out, None, Libtorch::cpu()).unwrap();
    assert_eq!(policy.vocab_size(), 32000);
}
