//! Real data and a pretrained model that may lie beside the project; without them these tests pass, and say that they are
//! skipped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
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

/// The program's surrogate is linear in the scores. So a least-squares fit of the log-probabilities to the terms that corners
/// and centre can produce (λ_k + λ_k² of each dimension, and Σ λ_k²: the span of the anchors' own terms, which is where ridge
/// puts the coefficients) says which five scores explain a table best. The program, given these, must find the table again.
#[test]
fn five_scores_explain_the_published_tables() {
    let Some(file) = shared_data("lambda_tables.json") else { return };
    let published: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    // The probabilities of the first table are no softmax of a diagonal quadratic function.
    let tables: Vec<(Vec<[f64; 4]>, Vec<f64>)> = published["tables"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|table| !table["version"].as_str().unwrap().starts_with("July 2025"))
        .map(|table| table["rows"].as_array().unwrap().iter().map(row).unzip())
        .collect();
    assert_eq!(tables.len(), 2);
    for table in &tables {
        assert!(largest_error(table, scores_of(std::slice::from_ref(table))) < 1.5e-3);
    }
    // Both have the same five scores.
    let scores = scores_of(&tables);
    for table in &tables {
        assert!(largest_error(table, scores) < 1.5e-3);
    }
}

const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];

/// λ, which is rounded to three digits, scaled to sum to 1, and its probability.
fn row(row: &serde_json::Value) -> ([f64; 4], f64) {
    let lambda = [0, 1, 2, 3].map(|k| row["lambda"][k].as_f64().unwrap());
    let total: f64 = lambda.iter().sum();
    (lambda.map(|weight| weight / total), row["probability"].as_f64().unwrap())
}

fn terms(lambda: &[f64; 4]) -> Vec<f64> {
    let squares: f64 = lambda.iter().map(|weight| weight * weight).sum();
    lambda.iter().map(|weight| weight + weight * weight).chain([squares]).collect()
}

/// The scores at the corners and at the centre whose surrogate is nearest to the log-probabilities of the tables, each of which
/// has a constant of its own.
fn scores_of(tables: &[(Vec<[f64; 4]>, Vec<f64>)]) -> [f64; 5] {
    let (mut design, mut target) = (Vec::new(), Vec::new());
    for (index, (rows, probabilities)) in tables.iter().enumerate() {
        for (lambda, probability) in rows.iter().zip(probabilities) {
            design.extend(terms(lambda));
            // The terms contain the constant: Σ_k λ_k = 1.
            design.extend((1..tables.len()).map(|other| f64::from(u8::from(other == index))));
            target.push(probability.ln());
        }
    }
    let num_rows = target.len() as i64;
    let design = tch::Tensor::from_slice(&design).reshape([num_rows, -1]);
    let target = tch::Tensor::from_slice(&target).reshape([num_rows, 1]);
    let (solution, ..) = design.linalg_lstsq(&target, None, "gelsd");
    let solution = Vec::<f64>::try_from(solution.reshape([-1])).unwrap();
    let score = |lambda: [f64; 4]| terms(&lambda).iter().zip(&solution).map(|(term, value)| term * value).sum();
    let corner = |k: usize| [0, 1, 2, 3].map(|other| f64::from(u8::from(other == k)));
    [score(corner(0)), score(corner(1)), score(corner(2)), score(corner(3)), score([0.25; 4])]
}

/// Fits the five scores with the program, at its defaults, and returns the largest error of a table's probabilities.
fn largest_error((rows, probabilities): &(Vec<[f64; 4]>, Vec<f64>), scores: [f64; 5]) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let named = |lambda: &[f64]| DIMENSIONS.into_iter().zip(lambda.to_vec()).collect::<BTreeMap<_, _>>();
    let mut anchors = String::new();
    for (name, score) in DIMENSIONS.iter().zip(scores) {
        anchors += &format!("{}\n", serde_json::json!({"lambda": {*name: 1}, "score": score}));
    }
    anchors += &format!("{}\n", serde_json::json!({"lambda": named(&[0.25; 4]), "score": scores[4]}));
    let candidates: Vec<String> =
        rows.iter().map(|lambda| serde_json::json!({"lambda": named(lambda)}).to_string()).collect();
    fs::write(path("scores.jsonl"), anchors).unwrap();
    fs::write(path("rows.jsonl"), candidates.join("\n")).unwrap();
    let (scores, candidates, out) = (path("scores.jsonl"), path("rows.jsonl"), path("table.toml"));
    run(&["schedule", "fit", "--scores", &scores, "--candidates", &candidates, "--out", &out]);
    let table: toml::Table = toml::from_str(&fs::read_to_string(out).unwrap()).unwrap();
    let found = table["lambda"]["table"].as_array().unwrap().iter();
    let found = found.map(|row| row["probability"].as_float().unwrap());
    found.zip(probabilities).map(|(found, published)| (found - published).abs()).fold(0.0, f64::max)
}
