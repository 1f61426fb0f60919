//! Real data and a pretrained model that may lie beside the project; without them these tests pass without doing
//! anything.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;

use lambda_dpo_tests::{program, shared_data};

/// Runs the program and returns its standard output.
fn run(arguments: &[&str]) -> String {
    let cache = tempfile::tempdir().unwrap();
    let output = program(cache.path()).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} failed:\n{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Trains a few steps from stories260k and returns the lines of `metrics.jsonl`.
fn train(output_dir: &Path, stage: &str, format: &str, records: &Path, more: &[&str]) -> Vec<serde_json::Value> {
    let model = shared_data("stories260k").unwrap();
    let config = output_dir.with_extension("toml");
    let text = format!(
        "stage = \"{stage}\"\noutput_dir = \"{}\"\n[model]\npath = \"{}\"\ndevice = \"cpu\"\n\
         [data]\nrecords = [\"{}\"]\nformat = \"{format}\"\ncutoff_len = 256\n\
         [train]\nlearning_rate = 1e-4\nmax_steps = 4\nper_device_train_batch_size = 4\n",
        output_dir.display(),
        model.display(),
        records.display()
    );
    fs::write(&config, text).unwrap();
    let mut arguments = vec!["train", config.to_str().unwrap()];
    arguments.extend(more);
    run(&arguments);
    let metrics = fs::read_to_string(output_dir.join("metrics.jsonl")).unwrap();
    metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn losses(rows: &[serde_json::Value]) -> Vec<f64> {
    rows.iter().filter_map(|row| row.get("loss")).map(|loss| loss.as_f64().unwrap()).collect()
}

#[test]
fn stories260k_tells_its_story() {
    let Some(model) = shared_data("stories260k") else { return };
    let model = model.to_str().unwrap();
    let text = run(&["generate", "--model", model, "--raw", "--max-new-tokens", "40", "--temperature", "0", ""]);
    let golden = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    assert!(text.trim_start().starts_with(golden), "{text}");
}

#[test]
fn supervised_fine_tuning_on_ultrachat() {
    let Some(records) = shared_data("ultrachat_sample.jsonl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let rows = train(&folder.path().join("sft"), "sft", "chat", &records, &[]);
    let losses = losses(&rows);
    assert_eq!(losses.len(), 4);
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{losses:?}");
    assert!(folder.path().join("sft/model/model.safetensors").is_file());
}

#[test]
fn pairwise_dpo_on_ultrafeedback_pairs() {
    let Some(records) = shared_data("ultrafeedback_pairs.jsonl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let rows = train(&folder.path().join("dpo"), "dpo", "pairs", &records, &["data.max_samples=32"]);
    let losses = losses(&rows);
    assert_eq!(losses.len(), 4);
    // Policy and reference are equal at the first step, so the loss is −log σ(0).
    assert!((losses[0] - 2.0_f64.ln()).abs() < 1e-6, "{losses:?}");
}

#[test]
fn lambda_dpo_on_six_responses_and_five_dimensions() {
    let Some(records) = shared_data("topical_chat.jsonl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let more = ["adapter.kind=lora", "adapter.rank=4"];
    let rows = train(&folder.path().join("lambda"), "lambda_dpo", "ultrafeedback", &records, &more);
    let losses = losses(&rows);
    assert_eq!(losses.len(), 4);
    // All rewards are 0 at the first step: the cross-entropy of any target with the uniform distribution over 6.
    assert!((losses[0] - 6.0_f64.ln()).abs() < 1e-6, "{losses:?}");
    let dimensions = ["understandability", "naturalness", "coherence", "engagingness", "groundedness"];
    for dimension in dimensions {
        assert!(rows.iter().any(|row| row.get(format!("loss/{dimension}")).is_some()), "no loss/{dimension}");
        assert!(rows.iter().any(|row| row.get(format!("lambda/{dimension}")).is_some()), "no lambda/{dimension}");
    }
    assert!(folder.path().join("lambda/adapter/adapter_model.safetensors").is_file());
}
