//! `lambda-dpo evaluate`, end to end on a tiny model.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Output;

use lambda_dpo_tests::trainer::{Run, close, stderr};
use lambda_dpo_tests::{fixture, program, root};
use serde_json::{Value, json};

/// A run with a λ-adapter, trained for two steps.
fn trained() -> Run {
    let run = Run::new("lambda_dpo");
    run.train(&[
        "train.max_steps=2",
        "train.learning_rate=0.05",
        "adapter.kind=lambda_lora",
        "adapter.rank=0",
        "adapter.rank_per_dimension=2",
    ]);
    run
}

/// Evaluates the run's model with few, short answers into the folder `out` of the run.
fn evaluate(run: &Run, out: &str, arguments: &[&str]) -> Output {
    let mut command = program(&run.path("cache"));
    command.args(["evaluate", "--device", "cpu", "--max-new-tokens", "6"]);
    if !arguments.contains(&"--num-prompts") {
        command.args(["--num-prompts", "3"]);
    }
    command.arg("--model").arg(run.path("model")).arg("--out").arg(run.path(out));
    if !arguments.contains(&"--records") {
        command.arg("--records").arg(run.path("records.jsonl"));
    }
    command.args(arguments).output().unwrap()
}

fn adapter(run: &Run) -> String {
    run.output_dir().join("adapter").display().to_string()
}

fn text(run: &Run, name: &str) -> String {
    fs::read_to_string(run.path(name)).unwrap()
}

fn evaluation(run: &Run, out: &str) -> Value {
    serde_json::from_str(&text(run, &format!("{out}/evaluation.json"))).unwrap()
}

fn answers(run: &Run, out: &str) -> Vec<Value> {
    text(run, &format!("{out}/answers.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The demo's rater, by rules.
fn rater() -> String {
    let (python, rules) = (root().join(".venv/bin/python"), fixture("demo/rate.py"));
    format!("'{}' '{}'", python.display(), rules.display())
}

#[test]
fn an_evaluation_holds_every_axis_and_comes_out_the_same_again() {
    let run = trained();
    let (adapter, rater, folder) = (adapter(&run), rater(), run.output_dir().display().to_string());
    let arguments = ["--adapter", &adapter, "--rater", &rater, "--num-samples", "2", "--run", &folder];
    let output = evaluate(&run, "first", &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = evaluation(&run, "first");
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join("schemas/evaluation.schema.json")).unwrap()).unwrap();
    jsonschema::draft7::new(&schema).unwrap().validate(&found).unwrap();
    assert_eq!(found["subject"]["reference"], "adapter_off");
    assert_eq!(found["subject"]["lambda"]["honesty"], 0.25);
    assert!(found["records"]["loss/honesty"].as_f64().unwrap() > 0.0);
    assert!(found["kl"]["k3"]["mean"].as_f64().unwrap() > 0.0 && found["kl"]["tokens"]["mean"].as_f64().unwrap() > 0.0);
    assert_eq!(found["run"]["steps"], 2);
    let win_rate = &found["win_rate"];
    let count = |name: &str| win_rate[name].as_u64().unwrap();
    assert_eq!(count("wins") + count("ties") + count("losses"), 6);
    // The rater scores the four dimensions.
    assert_eq!(win_rate["scores"].as_object().unwrap().len(), 4);
    let answers = answers(&run, "first");
    assert_eq!(answers.len(), 6);
    assert_eq!((&answers[0]["prompt"], &answers[1]["sample"]), (&answers[1]["prompt"], &json!(1)));
    let mean = answers.iter().map(|answer| answer["scores"]["honesty"].as_f64().unwrap()).sum::<f64>() / 6.0;
    assert!(close(&found["scores"]["honesty"]["policy"]["mean"], &json!(mean), 1e-12));
    assert!(answers.iter().all(|answer| answer["against"]["response"].is_string()));

    // Into the same folder, which it replaces.
    let before = (text(&run, "first/evaluation.json"), text(&run, "first/answers.jsonl"));
    assert!(evaluate(&run, "first", &arguments).status.success());
    assert_eq!((text(&run, "first/evaluation.json"), text(&run, "first/answers.jsonl")), before);
}

#[test]
fn a_policy_that_is_its_reference_differs_in_nothing() {
    let run = trained();
    let model = run.path("model").display().to_string();
    let output = evaluate(&run, "same", &["--reference", &model, "--rater", &rater()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = evaluation(&run, "same");
    for name in ["k1", "k3", "tokens"] {
        assert_eq!(found["kl"][name]["mean"], 0.0, "{name}");
    }
    assert_eq!(found["records"]["logps/ratio"], 0.0);
    assert_eq!(found["spearman"]["sum"]["policy"], found["spearman"]["sum"]["reference"]);
    assert_eq!((&found["win_rate"]["rate"], &found["win_rate"]["ties"]), (&json!(0.5), &json!(3)));
}

#[test]
fn answers_of_another_model_can_be_compared_with() {
    let run = trained();
    let (adapter, rater) = (adapter(&run), rater());
    assert!(evaluate(&run, "base", &["--reference", "none"]).status.success());
    let base = run.path("base").display().to_string();
    let against = ["--adapter", &adapter, "--rater", &rater, "--against", &base];
    assert!(evaluate(&run, "against", &against).status.success());
    assert!(evaluate(&run, "reference", &["--adapter", &adapter, "--rater", &rater]).status.success());
    // The model without its adapter is the reference: the same random numbers give the same answers.
    let (against, reference) = (evaluation(&run, "against"), evaluation(&run, "reference"));
    assert_eq!(against["win_rate"], reference["win_rate"]);
    assert_eq!(against["settings"]["against"], json!(base));
    assert_eq!(reference["settings"]["against"], "reference");
    assert_eq!(answers(&run, "against"), answers(&run, "reference"));
}

#[test]
fn without_a_reference_or_a_judge_the_rest_is_measured() {
    let run = trained();
    assert!(evaluate(&run, "alone", &["--reference", "none", "--num-prompts", "0"]).status.success());
    let found = evaluation(&run, "alone");
    assert_eq!((&found["kl"], &found["win_rate"], &found["run"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(found["spearman"]["sum"]["reference"], Value::Null);
    assert!(found["records"].get("logps/ratio").is_none() && found["records"]["loss"].is_number());
    assert!(answers(&run, "alone").is_empty());

    let adapter = adapter(&run);
    let warm = evaluate(&run, "warm", &["--adapter", &adapter, "--temperature", "0.5"]);
    assert!(
        stderr(&warm).contains(
            "k1 and k3 are left out: at a temperature other than 1, the answers are not samples of the policy itself"
        ),
        "{}",
        stderr(&warm)
    );
    assert_eq!(evaluation(&run, "warm")["kl"]["k1"], Value::Null);
}

#[test]
fn prompts_from_a_file_and_records_with_rankings_are_read() {
    let run = trained();
    fs::write(run.path("prompts.jsonl"), "{\"prompt\": \"Tell me about the toad.\", \"id\": 7}\n").unwrap();
    let rankings = "{\"prompt\": \"A\", \"responses\": [\"The toad sleeps.\", \"It eats fish.\"], \"rankings\": {\"honesty\": [1, 2]}}\n";
    fs::write(run.path("rankings.jsonl"), rankings).unwrap();
    let (prompts, records) = (run.path("prompts.jsonl"), run.path("rankings.jsonl"));
    let output = evaluate(
        &run,
        "rankings",
        &[
            "--reference",
            "none",
            "--records",
            records.to_str().unwrap(),
            "--format",
            "rankings",
            "--prompts",
            prompts.to_str().unwrap(),
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let found = evaluation(&run, "rankings");
    // Two places: the first has the rating 2, the second 1.
    let expected = found["records"]["expected_rating/honesty"].as_f64().unwrap();
    assert!((1.0..=2.0).contains(&expected), "{expected}");
    assert_eq!(
        (&found["settings"]["dimensions"], &answers(&run, "rankings")[0]["id"]),
        (&json!(["honesty"]), &json!(7))
    );
}

#[test]
fn what_was_measured_before_a_rater_failed_is_not_measured_again() {
    let run = trained();
    let own = adapter(&run);
    let works = run.path("works");
    let command = format!("test -e '{}' && sed 's/.*/{{\"honesty\": 1}}/'", works.display());
    let arguments = ["--adapter", &own, "--rater", &command];
    assert!(!evaluate(&run, "report", &arguments).status.success());
    let kept = run.path("report.unfinished.jsonl");
    assert_eq!(fs::read_to_string(&kept).unwrap().lines().count(), 1 + 3, "the rater failed on the first answers");
    fs::write(&works, "").unwrap();
    let output = evaluate(&run, "report", &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("3 finished steps are in "), "{}", stderr(&output));
    assert!(!kept.exists());
    let resumed = (evaluation(&run, "report"), answers(&run, "report"));
    assert!(evaluate(&run, "report", &arguments).status.success());
    assert_eq!(resumed, (evaluation(&run, "report"), answers(&run, "report")));
}

#[test]
fn what_cannot_be_evaluated_is_refused_in_a_sentence_and_leaves_nothing() {
    let run = trained();
    let own = adapter(&run);
    let refused = |arguments: &[&str]| {
        let output = evaluate(&run, "refused", arguments);
        assert!(!output.status.success() && !run.path("refused").exists(), "{arguments:?}");
        let last = stderr(&output).lines().last().unwrap_or_default().to_owned();
        let said = last.trim_start_matches("error: ").replace(&*run.path("").to_string_lossy(), "");
        let (sentence, _) =
            said.split_once("; what was measured until then is in refused.unfinished.jsonl").unwrap_or((&said, ""));
        sentence.to_owned()
    };
    assert_eq!(
        refused(&[]),
        "there is no reference: a model without an adapter needs --reference, the model that its training began with, or \
         --reference none"
    );
    assert_eq!(
        refused(&["--adapter", &own, "--rater", "sed 's/.*/[]/'"]),
        "line 1 of the rater `sed 's/.*/[]/'` is not an object of numbers, as in {\"honesty\": 3.5}: []"
    );
    assert_eq!(
        refused(&["--adapter", &own, "--rater", "head -n 2 | sed 's/.*/{\"a\": 1}/'"]),
        "the rater `head -n 2 | sed 's/.*/{\"a\": 1}/'` wrote 2 lines for 3 answers: it must write one for each, in their order"
    );
    assert_eq!(
        refused(&["--adapter", &own, "--against", &own]),
        "--against compares scores: pass --rater or --reward-model, which give them"
    );
    let other = run.path("other.jsonl");
    fs::write(&other, "{\"prompt\": \"B\", \"response\": \"b\"}\n").unwrap();
    assert_eq!(
        refused(&["--adapter", &own, "--rater", &rater(), "--against", other.to_str().unwrap()]),
        "other.jsonl answers none of the 3 prompts, of which the first is \"What is known about the toad? Use at mos\"…: \
         compare with answers to the same prompts"
    );
    let endless = run.path("endless");
    fs::create_dir(&endless).unwrap();
    symlink("/dev/zero", endless.join("answers.jsonl")).unwrap();
    assert_eq!(
        refused(&["--adapter", &own, "--rater", &rater(), "--against", endless.to_str().unwrap()]),
        "endless/answers.jsonl cannot be read: it is a pipe or a device, but a regular file is to be read"
    );
    assert_eq!(
        refused(&["--adapter", &own, "--run", &own]),
        "run/adapter has no metrics of a training run: pass --run the `output_dir` of `train`, or leave it out"
    );
    assert_eq!(
        refused(&["--adapter", &own, "--format", "pairs"]),
        "--format must be ultrafeedback or rankings, not pairs: evaluate measures rated responses"
    );
    let empty = run.path("empty.jsonl");
    fs::write(&empty, "").unwrap();
    assert_eq!(
        refused(&["--adapter", &own, "--records", empty.to_str().unwrap()]),
        "there is no record in empty.jsonl: pass --records with rated responses"
    );
    fs::write(run.path("turns.jsonl"), "{\"turns\": [\"A\", \"B\"]}\n").unwrap();
    assert_eq!(
        refused(&["--adapter", &own, "--prompts", run.path("turns.jsonl").to_str().unwrap()]),
        "turns.jsonl: prompt 0 has several turns, and evaluate answers one: give the conversation up to the answer as `messages`"
    );
    let reward = refused(&["--adapter", &own, "--reward-model", run.path("model").to_str().unwrap()]);
    assert!(reward.contains("LlamaForCausalLM"), "{reward}");
    assert_eq!(refused(&["--adapter", &own, "--num-samples", "0"]), "--num-samples must be at least 1, not 0");
}

#[test]
fn a_reference_with_another_vocabulary_or_tokenizer_is_refused() {
    let run = trained();
    let other = Run::new("lambda_dpo");
    let config = other.path("model/config.json");
    let reference = other.path("model").display().to_string();
    let refused = || {
        let output = evaluate(&run, "refused", &["--reference", &reference]);
        assert!(!output.status.success() && !run.path("refused").exists());
        stderr(&output).lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    // Words of the first prompt swap their numbers.
    let tokenizer = other.path("model/tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    let vocab = value["model"]["vocab"].as_object_mut().unwrap();
    let (first, second) = (vocab["What"].clone(), vocab[" is"].clone());
    vocab.insert("What".into(), second);
    vocab.insert(" is".into(), first);
    fs::write(&tokenizer, value.to_string()).unwrap();
    assert_eq!(
        refused(),
        "the tokenizer of the reference encodes a prompt differently: the two cannot be compared token by token"
    );
    fs::write(&tokenizer, text).unwrap();
    let weights = other.path("model/model.safetensors");
    fs::remove_file(&weights).unwrap();
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
    value["vocab_size"] = json!(value["vocab_size"].as_i64().unwrap() + 8);
    fs::write(&config, value.to_string()).unwrap();
    let libtorch = lambda_dpo_host::libtorch::Libtorch::cpu();
    let model = lambda_dpo_host::model::Model::random(&other.path("model"), libtorch, tch::Kind::Float, 7).unwrap();
    model.save(&other.path("larger"), &other.path("model")).unwrap();
    fs::remove_dir_all(other.path("model")).unwrap();
    fs::rename(other.path("larger"), other.path("model")).unwrap();
    let message = refused();
    assert!(message.starts_with("the reference has a vocabulary of "), "{message}");
}
