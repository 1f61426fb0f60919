//! `lambda-dpo report`, end to end on runs made up here.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;

use lambda_dpo_host::report::Report;
use lambda_dpo_tests::program;
use lambda_dpo_tests::trainer::stderr;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with runs.
struct Study(TempDir);

impl Study {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A finished run: its config, and lines of metrics that depend on β and the seed.
    fn run(&self, name: &str, seed: u64, beta: f64) {
        self.start(name, seed, beta);
        fs::write(self.path(name).join("trainer_state.json"), "{}").unwrap();
    }

    /// A run without its result.
    fn start(&self, name: &str, seed: u64, beta: f64) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "stage = \"lambda_dpo\"\noutput_dir = \"{}\"\nseed = {seed}\n[model]\npath = \"m\"\n[loss]\nbeta = {beta}\n",
            folder.display()
        );
        fs::write(folder.join("run.toml"), config).unwrap();
        let mut lines = String::new();
        for step in [10, 20, 30] {
            let row = json!({
                "step": step, "loss": 2.0 - step as f64 * beta / 10.0 + seed as f64 / 100.0,
                "rewards/accuracies": 0.25 + step as f64 / 100.0, "tokens_per_second": 1000.0 * seed as f64,
                "step_secs": 0.5, "peak_memory_bytes": 1_048_576 * (100 + seed),
            });
            let _ = writeln!(lines, "{row}");
            let row =
                json!({"step": step, "eval_loss": 1.5 - beta + seed as f64 / 50.0, "eval_rewards/accuracies": 0.75});
            let _ = writeln!(lines, "{row}");
        }
        fs::write(folder.join("metrics.jsonl"), lines).unwrap();
    }

    /// An evaluation in a folder.
    fn evaluate(&self, name: &str, changed: &Value) {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        let mut evaluation = evaluation();
        merge(&mut evaluation, changed);
        fs::write(folder.join("evaluation.json"), evaluation.to_string()).unwrap();
    }

    fn report(&self, arguments: &[&str]) -> Output {
        // Relative folders are those of the study.
        let mut command = program(&self.path("cache"));
        command.current_dir(self.0.path()).arg("report").args(arguments).output().unwrap()
    }

    /// The error of a report that was not written.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.report(&[arguments, &["--out", "refused"]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?}");
        assert!(!self.path("refused").exists(), "{arguments:?}");
        stderr(&output).trim_end().trim_start_matches("error: ").to_owned()
    }

    fn json(&self, out: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(out).join("report.json")).unwrap()).unwrap()
    }
}

/// Overwrites the fields of `value` that `changed` has.
fn merge(value: &mut Value, changed: &Value) {
    match (value, changed) {
        (Value::Object(value), Value::Object(changed)) => {
            for (key, changed) in changed {
                merge(value.entry(key).or_insert(Value::Null), changed);
            }
        }
        (value, changed) => *value = changed.clone(),
    }
}

fn evaluation() -> Value {
    let estimate = |mean: f64| json!({"mean": mean, "stderr": 0.01});
    json!({
        "subject": {"model": "m", "adapter": "a", "lambda": null, "reference": "adapter_off"},
        "settings": {
            "dimensions": ["honesty", "brevity"], "lambda": [0.5, 0.5], "beta": 0.1, "reduction": "sum",
            "num_records": 200, "num_prompts": 100, "num_samples": 1, "max_new_tokens": 64, "temperature": 1.0,
            "seed": 42, "judge": "python3 rate.py", "against": "reference"
        },
        "records": {
            "loss": 1.25, "rewards/accuracies": 0.8, "rewards/margins": 1.5, "logps/ratio": -3.0,
            "expected_rating/honesty": 4.0, "expected_rating/brevity": 3.5
        },
        "kl": {"k1": null, "k3": estimate(4.5), "tokens": estimate(0.125)},
        "spearman": {
            "sum": {"policy": estimate(-0.9), "reference": estimate(-0.95)},
            "mean": {"policy": estimate(0.1), "reference": null}
        },
        "scores": {"honesty": {"policy": estimate(4.25), "against": estimate(3.75)}},
        "win_rate": {
            "rate": 0.6, "stderr": 0.03, "interval": [0.54, 0.66], "length_controlled": 0.55, "wins": 55, "ties": 10,
            "losses": 35, "mean_length": {"policy": 120.0, "against": 100.0}, "scores": {}
        },
        "run": null
    })
}

/// Two rows of three seeds, one evaluated, and an evaluation alone.
fn study() -> Study {
    let study = Study::new();
    for seed in 1..=3 {
        study.run(&format!("runs/weak-{seed}"), seed, 0.1);
        study.run(&format!("runs/strong-{seed}"), seed, 0.5);
        let rate = json!({"win_rate": {"rate": 0.5 + 0.05 * seed as f64}});
        study.evaluate(&format!("runs/strong-{seed}/evaluation"), &rate);
    }
    study.evaluate("runs/other", &json!({"settings": {"num_prompts": 50}, "win_rate": null}));
    let benchmarks = json!({
        "lm_eval": "0.4.13", "limit": 100,
        "tasks": {"arc_challenge": {"metric": "acc_norm", "value": 0.31, "stderr": 0.046, "num_questions": 100}}
    });
    fs::write(study.path("runs/weak-1/benchmarks.json"), benchmarks.to_string()).unwrap();
    study
}

const ALL: [&str; 7] =
    ["runs/weak-1", "runs/weak-2", "runs/weak-3", "runs/strong-1", "runs/strong-2", "runs/strong-3", "runs/other"];

#[test]
fn runs_that_differ_only_by_seed_are_a_row() {
    let study = study();
    let output = study.report(&[&ALL[..], &["--out", "report"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    insta::assert_snapshot!("report_table", String::from_utf8(output.stdout).unwrap());
    let found = study.json("report");
    insta::assert_snapshot!("report_json", serde_json::to_string_pretty(&found).unwrap());

    // By hand: the win rates are 0.55, 0.6 and 0.65.
    let rate = &found["rows"][1]["figures"]["win_rate/rate"];
    for (key, value) in [("mean", 0.6), ("stddev", 0.05), ("stderr", 0.05 / 3.0_f64.sqrt()), ("sampling_stderr", 0.03)]
    {
        assert!((rate[key].as_f64().unwrap() - value).abs() < 1e-12, "{key} of {rate}");
    }
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<Report>();
    jsonschema::draft7::new(schema.as_value()).unwrap().validate(&found).unwrap();

    let page = fs::read_to_string(study.path("report/report.html")).unwrap();
    for figure in found["figures"].as_array().unwrap() {
        assert!(page.contains(figure["title"].as_str().unwrap()), "{figure}");
    }
    // Four curves; bars of two accuracies, two ratings, two divergences, a correlation, two rates, a length, two costs
    // and a benchmark.
    assert_eq!(page.matches("<svg").count(), 4 + 13);
    assert!(page.contains("strong (3 seeds)") && page.contains("Error bars: one standard deviation over runs."));
    for resource in ["<script", "src=", "url(", "@import", "NaN"] {
        assert!(!page.contains(resource), "{resource}");
    }
}

#[test]
fn without_out_only_the_tables_are_printed() {
    let study = study();
    let output = study.report(&["runs/strong-1", "first=runs/weak-1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.lines().any(|line| line.starts_with("first ")), "{table}");
    assert!(table.lines().any(|line| line.starts_with("strong-1 ")) && !table.contains('±'), "{table}");
    let names: Vec<_> = fs::read_dir(study.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "runs" || name == "cache"), "{names:?}");
}

#[test]
fn a_name_joins_runs_that_start_from_different_models() {
    let study = Study::new();
    for seed in 1..=2 {
        let name = format!("tuned-{seed}");
        study.run(&name, seed, 0.1);
        let config = study.path(&name).join("run.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(config, text.replace("\"m\"", &format!("\"sft-{seed}\""))).unwrap();
    }
    let rows = |arguments: &[&str]| {
        let output = study.report(&[arguments, &["--out", "report"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let found = study.json("report");
        found["rows"].as_array().unwrap().iter().map(|row| row["runs"].as_array().unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(rows(&["tuned-1", "tuned-2"]), [1, 1]);
    assert_eq!(rows(&["tuned=tuned-1", "tuned=tuned-2"]), [2]);
}

#[test]
fn a_run_that_goes_on_is_reported_as_far_as_it_is() {
    let study = Study::new();
    study.start("a", 1, 0.1);
    let log = study.path("a/metrics.jsonl");
    let text = fs::read_to_string(&log).unwrap();
    let again = text.lines().last().unwrap().to_owned();
    fs::write(&log, format!("{text}{again}\n{{\"step\":40,\"lo")).unwrap();
    study.evaluate("a/evaluation", &json!({"kl": {"k2": 1.0}}));
    let output = study.report(&["a"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    let notes: Vec<&str> = table.lines().filter(|line| line.starts_with("note")).collect();
    assert_eq!(
        notes,
        [
            "note: a: its evaluation has fields of another version, which are left out: kl/k2.",
            "note: a: of steps that were logged twice, 1 in all, the later lines count.",
            "note: a: it is not finished: the run goes on, or was stopped.",
        ]
    );
}

#[test]
fn long_logs_make_short_pages() {
    let study = Study::new();
    study.run("long", 1, 0.1);
    let lines: String = (1..=100_000)
        .map(|step| {
            format!("{{\"step\":{step},\"loss\":{}.5,\"step_secs\":0.1,\"tokens_per_second\":1.0}}\n", step % 7)
        })
        .collect();
    fs::write(study.path("long/metrics.jsonl"), lines).unwrap();
    let output = study.report(&["long", "--out", "report"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::metadata(study.path("report/report.html")).unwrap().len() < 100_000);
    let seconds = study.json("report")["rows"][0]["figures"]["run/seconds"]["mean"].as_f64().unwrap();
    assert!((seconds - 10_000.0).abs() < 1e-6, "{seconds}");
}

#[test]
fn folders_that_are_no_runs_are_refused() {
    let study = Study::new();
    assert_eq!(study.refused(&["none"]), "none is no folder: pass one that `train` or `evaluate` wrote");
    fs::create_dir(study.path("empty")).unwrap();
    assert_eq!(
        study.refused(&["empty"]),
        "empty has no metrics.jsonl and no evaluation.json: pass a folder that `train` or `evaluate` wrote"
    );
    fs::write(study.path("empty/metrics.jsonl"), "").unwrap();
    assert_eq!(study.refused(&["empty"]), "empty/metrics.jsonl has no line yet: wait until the run has logged a step");
    study.evaluate("old", &json!({"settings": {"beta": "high"}}));
    assert_eq!(
        study.refused(&["old"]),
        "old/evaluation.json is no evaluation that this version reads: run `evaluate` again: invalid type: string \"high\", \
         expected f64"
    );
    study.run("run", 1, 0.1);
    let config = study.path("run/run.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}alpha = 1\n")).unwrap();
    let message = study.refused(&["run"]);
    assert!(
        message.starts_with("run/run.toml is no run config that this version reads (unknown field `alpha`, expected")
            && message.ends_with("): use the version that made the run"),
        "{message}"
    );
    fs::write(&config, text).unwrap();
    fs::write(study.path("run/benchmarks.json"), "{}").unwrap();
    assert_eq!(
        study.refused(&["run"]),
        "run/benchmarks.json does not hold figures of benchmarks: remove it, or run `make benchmarks` again: missing field \
         `lm_eval` at line 1 column 2"
    );
    // What cannot be read is not missing.
    for name in ["benchmarks.json", "run.toml", "evaluation.json", "metrics.jsonl"] {
        let path = study.path(&format!("run/{name}"));
        let _ = fs::remove_file(&path);
        symlink(name, &path).unwrap();
        let message = study.refused(&["run"]);
        assert!(message.starts_with(&format!("run/{name}")) && message.contains("symbolic links"), "{message}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn runs_that_cannot_be_a_row_are_refused() {
    let study = Study::new();
    study.run("a/one", 1, 0.1);
    study.run("b/one", 1, 0.1);
    study.run("c/one", 2, 0.5);
    assert_eq!(study.refused(&["a/one", "b/../a/one"]), "b/../a/one is given twice: leave one out");
    assert_eq!(
        study.refused(&["a/one", "b/one"]),
        "a/one and b/one are the same run with the same seed, 1: leave one out, or name them apart with NAME=RUN"
    );
    assert!(study.report(&["first=a/one", "second=b/one"]).status.success());
    assert_eq!(
        study.refused(&["x=a/one", "x=c/one"]),
        "x names a/one and c/one, which differ in loss.beta (0.1 and 0.5): give them different names"
    );
    assert_eq!(
        study.refused(&["c=a/one", "c/one"]),
        "a/one and c/one are rows of their own, but would both be called c: name one with NAME=RUN"
    );
    study.run("b/two", 2, 0.1);
    study.evaluate("b/one/evaluation", &json!({}));
    study.evaluate("b/two/evaluation", &json!({"settings": {"num_records": 7, "seed": 3}}));
    assert_eq!(
        study.refused(&["b/one", "b/two"]),
        "b/one and b/two are one row, but were evaluated with different num_records (200 and 7): evaluate them alike, or \
         name them apart with NAME=RUN"
    );
}

#[test]
fn a_folder_with_other_files_is_not_replaced() {
    let study = Study::new();
    study.run("a", 1, 0.1);
    fs::create_dir(study.path("mine")).unwrap();
    fs::write(study.path("mine/notes.txt"), "kept").unwrap();
    let output = study.report(&["a", "--out", "mine"]);
    assert_eq!(
        stderr(&output).trim_end(),
        "error: mine holds notes.txt, which is no part of a report: choose another folder for --out"
    );
    assert_eq!(fs::read_to_string(study.path("mine/notes.txt")).unwrap(), "kept");
}
