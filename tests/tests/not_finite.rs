//! Weights that are not finite numbers end every command with an error: JSON cannot hold what they give.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::trainer::{Run, metrics, stderr};

fn broken() -> Policy {
    let policy = Policy::with_adapter();
    policy.change_weight("model.norm.weight", f64::NAN);
    policy
}

#[test]
fn scores_name_the_record() {
    let policy = broken();
    let (model, records, out) = (policy.text("model"), policy.text("records.jsonl"), policy.text("scores.jsonl"));
    let message = policy.refuse(&["score", "--device", "cpu", "--model", &model, "--records", &records, "--out", &out]);
    assert_eq!(
        message,
        format!(
            "error: the log-prob of response 0 of record 0 is NaN: check the weights of {model} and its adapter, and this \
             record"
        )
    );
    assert!(!policy.path("scores.jsonl").exists());
}

#[test]
fn reports_and_comparisons_name_the_record() {
    let policy = Policy::with_adapter();
    let (model, records, out) = (policy.text("model"), policy.text("records.jsonl"), policy.text("out"));
    policy.export_plain(&["--to", "onnx"], "out");
    policy.change_weight("model.norm.weight", f64::NAN);
    let common = ["--device", "cpu", "--model", &model, "--records", &records];
    let message = policy.refuse(&[&["validate", "--onnx", &out, "--json"], &common[..]].concat());
    assert_eq!(
        message,
        "error: a log-prob of the model is NaN in record 0: check the model's weights, and this record"
    );
    let report = policy.text("report");
    // The longest record comes first.
    let message = policy.refuse(&[&["steer", "--out", &report], &common[..]].concat());
    assert_eq!(
        message,
        "error: the reference log-prob of response 0 of record 3 is NaN: check the weights of the model and its adapter, and \
         this record"
    );
    assert!(!policy.path("report").exists() && !policy.path("report.unfinished.jsonl").exists());
}

#[test]
fn nothing_is_generated_or_exported() {
    let policy = broken();
    let model = policy.text("model");
    for temperature in ["0", "1"] {
        let message =
            policy.refuse(&["generate", "--device", "cpu", "--model", &model, "--temperature", temperature, "Hi"]);
        assert!(
            message.starts_with("error: the model's logits are not finite numbers, so there is no next token"),
            "{message}"
        );
    }
    for format in ["hf", "torchscript"] {
        let message = policy.refuse(&["export", "--model", &model, "--to", format, &policy.text("exported")]);
        assert_eq!(
            message,
            "error: `model.norm.weight` has values that are not finite numbers; check the weights of the model and its adapter"
        );
        assert!(!policy.path("exported").exists());
    }
}

fn with_broken_model(stage: &str) -> Run {
    let run = Run::new(stage);
    let path = run.path("model/model.safetensors");
    let tensors = lambda_dpo_host::files::safetensors::read(&path).unwrap();
    let _ = tensors["model.norm.weight"].narrow(0, 0, 1).fill_(f64::NAN);
    let entries = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    lambda_dpo_host::files::safetensors::write(&path, entries, &[("format", "pt")]).unwrap();
    run
}

fn refusal(run: &Run, overrides: &[&str]) -> String {
    let output = run.try_train(overrides);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output).lines().last().unwrap().to_owned()
}

#[test]
fn a_run_stops_at_its_reference_and_at_its_evaluation() {
    let run = with_broken_model("lambda_dpo");
    let message = refusal(&run, &[]);
    assert!(message.starts_with("error: the reference log-prob of response 0 of record "), "{message}");
    assert!(message.ends_with(" is NaN: check the weights of the reference policy, and this record"), "{message}");

    let run = with_broken_model("sft");
    let message = refusal(&run, &["data.eval_fraction=0.2"]);
    assert!(
        message.starts_with("error: the evaluation loss is NaN after step 0, in a batch of the records "),
        "{message}"
    );
    assert!(metrics(&run.output_dir()).is_empty(), "a line of nulls was written");
}

#[test]
fn a_last_update_that_breaks_the_weights_is_not_saved() {
    let run = Run::new("sft");
    let message = refusal(&run, &["train.max_steps=1", "train.learning_rate=1e39"]);
    assert!(
        message.contains(" is not a finite number after step 1, so it is not saved; no checkpoint has been saved; "),
        "{message}"
    );
    assert!(!run.output_dir().join("model").exists());
    let run = Run::new("sft");
    let message = refusal(&run, &["train.max_steps=2", "train.save_steps=1", "train.learning_rate=1e39"]);
    assert!(message.contains(" is not a finite number after step 1, so it is not saved; "), "{message}");
    assert!(!run.output_dir().join("checkpoint-1").exists());
}
