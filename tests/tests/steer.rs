//! `lambda-dpo steer`, end to end on a tiny model.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::Output;

use lambda_dpo_tests::trainer::{Run, close, stderr};
use lambda_dpo_tests::{fixture, program, root};
use serde_json::Value;

const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];

/// A run with an adapter, trained for two steps.
fn trained(overrides: &[&str]) -> Run {
    let run = Run::new("lambda_dpo");
    let mut all = vec!["train.max_steps=2", "train.learning_rate=0.05"];
    all.extend(overrides);
    run.train(&all);
    run
}

fn with_lambda() -> Run {
    trained(&["adapter.kind=lambda_lora", "adapter.rank=0", "adapter.rank_per_dimension=2"])
}

/// Runs `steer` with few, short texts into the folder `out` of the run.
fn steer(run: &Run, out: &str, arguments: &[&str]) -> Output {
    let mut command = program(&run.path("cache"));
    command.args(["steer", "--device", "cpu", "--steps", "2", "--num-prompts", "3", "--max-new-tokens", "6"]);
    command.arg("--model").arg(run.path("model")).arg("--out").arg(run.path(out));
    command.arg("--records").arg(run.path("records.jsonl")).args(arguments);
    command.output().unwrap()
}

fn adapter(run: &Run) -> String {
    run.output_dir().join("adapter").display().to_string()
}

fn report(run: &Run, out: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(run.path(out).join("steer.json")).unwrap()).unwrap()
}

#[test]
fn a_report_holds_the_metrics_of_every_lambda_and_plots() {
    let run = with_lambda();
    let (python, rules) = (root().join(".venv/bin/python"), fixture("demo/rate.py"));
    let rater = format!("'{}' '{}'", python.display(), rules.display());
    let arguments = ["--adapter", &adapter(&run), "--rater", &rater];
    let output = steer(&run, "report", &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    for text in ["mean score of generated text", "expected rating on held-out records", "reward accuracy"] {
        assert!(table.contains(text), "{table}");
    }
    let found = report(&run, "report");
    // λ_k = 0, 1/2, 1 of four dimensions.
    assert_eq!((found["points"].as_array().unwrap().len(), &found["curves"][1][2]), (12, &Value::from(5)));
    assert_eq!(found["points"][5]["lambda"], serde_json::json!([0.0, 1.0, 0.0, 0.0]));
    for point in found["points"].as_array().unwrap() {
        for name in DIMENSIONS {
            let rating = point["held_out"][format!("expected_rating/{name}")].as_f64().unwrap();
            let score = point["generated"][format!("score/{name}")].as_f64().unwrap();
            assert!((1.0..=5.0).contains(&rating) && (1.0..=5.0).contains(&score), "{point}");
        }
        assert!(point["held_out"]["eval_logps/ratio"].as_f64().unwrap() != 0.0);
    }
    let page = fs::read_to_string(run.path("report/index.html")).unwrap();
    // A curve for each dimension and metric, a front for each pair of dimensions.
    assert_eq!(page.matches("<svg").count(), 2 * 4 + 6);

    // The same numbers from a second run, compared with the first; its rater scores one dimension only.
    let command = r#"awk '{ print "{\"honesty\": " NR % 7 "}" }'"#;
    let first = format!("first={}", run.path("report").display());
    let again = steer(&run, "again", &["--adapter", &adapter(&run), "--rater", command, "--compare", &first]);
    assert!(again.status.success(), "{}", stderr(&again));
    let table = String::from_utf8(again.stdout).unwrap();
    assert!(table.contains("range of the expected rating"), "{table}");
    // The new report has the name of its run.
    assert!(table.lines().any(|line| line.split_whitespace().eq(["run", "first"])), "{table}");
    let page = fs::read_to_string(run.path("again/index.html")).unwrap();
    assert!(page.contains(">\nrun\n<") && page.contains(">\nfirst\n<"), "{page}");
    let (first, second) = (&found["points"], &report(&run, "again")["points"]);
    for (first, second) in first.as_array().unwrap().iter().zip(second.as_array().unwrap()) {
        assert_eq!(first["held_out"], second["held_out"]);
        assert_eq!(second["generated"].as_object().unwrap().len(), 2, "expected a score and the length");
    }
}

#[test]
fn several_answers_to_a_prompt_differ() {
    let run = with_lambda();
    let answers = |name: &str, num_samples: &str| {
        let file = run.path(&format!("{name}.jsonl"));
        let rater = format!("tee '{}' | sed 's/.*/{{\"honesty\": 1}}/'", file.display());
        let output = steer(&run, name, &["--adapter", &adapter(&run), "--rater", &rater, "--num-samples", num_samples]);
        assert!(output.status.success(), "{}", stderr(&output));
        let lines = fs::read_to_string(file).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let (one, two) = (answers("one", "1"), answers("two", "2"));
    // Three prompts at each of 12 values of λ.
    assert_eq!((one.len(), two.len()), (36, 72));
    for (one, two) in one.chunks(3).zip(two.chunks(6)) {
        assert_eq!(two[..3], *one);
        for (first, second) in two[..3].iter().zip(&two[3..]) {
            assert_eq!(first["prompt"], second["prompt"]);
            assert_ne!(first["response"], second["response"]);
        }
    }
}

#[test]
fn a_mixture_of_copies_of_one_specialist_is_that_specialist() {
    let run = trained(&["adapter.kind=lora", "adapter.rank=2", "lambda.schedule=unimodal", "lambda.dimension=honesty"]);
    let other_run = trained(&["adapter.kind=lora", "adapter.rank=2", "seed=1"]);
    let other = adapter(&other_run);
    let own = adapter(&run);
    // Four copies of one specialist are that specialist at any λ.
    let parts: Vec<String> = DIMENSIONS.iter().map(|name| format!("{name}={own}")).collect();
    let soup: Vec<&str> = std::iter::once("--soup").chain(parts.iter().map(String::as_str)).collect();
    assert!(steer(&run, "soup", &soup).status.success());
    assert!(steer(&run, "plain", &["--adapter", &own]).status.success());
    assert!(steer(&run, "base", &[]).status.success());
    let (soup, plain, base) = (report(&run, "soup"), report(&run, "plain"), report(&run, "base"));
    assert_eq!((soup["points"].as_array().unwrap().len(), plain["points"].as_array().unwrap().len()), (12, 1));
    let rating = |report: &Value, point: usize| report["points"][point]["held_out"]["expected_rating/honesty"].clone();
    for point in 0..12 {
        assert!(close(&rating(&soup, point), &rating(&plain, 0), 1e-5));
    }
    assert_eq!(base["points"][0]["held_out"]["eval_logps/ratio"], 0.0);
    assert!(rating(&plain, 0) != rating(&base, 0));

    let mixed = format!("honesty={other}");
    assert!(
        steer(&run, "two", &["--soup", &parts[0], &mixed]).status.success(),
        "records with more dimensions than specialists were refused"
    );
    let three_run = trained(&["adapter.kind=lora", "adapter.rank=3"]);
    let three = adapter(&three_run);
    let message = stderr(&steer(&run, "three", &["--soup", &parts[0], &format!("honesty={three}")]));
    assert!(
        message.contains("cannot be mixed: all must be plain LoRA of the same rank, scaling and targets"),
        "{message}"
    );
}

#[test]
fn a_folder_with_other_files_is_not_replaced_by_a_report() {
    let run = with_lambda();
    fs::create_dir(run.path("mine")).unwrap();
    fs::write(run.path("mine/notes.txt"), "kept").unwrap();
    let output = steer(&run, "mine", &["--adapter", &adapter(&run)]);
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "error: {} holds notes.txt, which is no part of a report: choose another folder for --out",
            run.path("mine").display()
        )
    );
    assert_eq!(fs::read_to_string(run.path("mine/notes.txt")).unwrap(), "kept");
}

#[test]
fn what_was_measured_before_a_rater_failed_is_not_measured_again() {
    let run = with_lambda();
    let own = adapter(&run);
    let works = run.path("works");
    let command = format!("test -e '{}' && sed 's/.*/{{\"honesty\": 1}}/'", works.display());
    let arguments = ["--adapter", &own, "--rater", &command];
    assert!(!steer(&run, "report", &arguments).status.success());
    let kept = run.path("report.unfinished.jsonl");
    let text = fs::read_to_string(&kept).unwrap();
    assert_eq!(text.lines().count(), 1 + 1 + 12, "a key, the reference, and each λ");
    // As if it had been killed before the last three.
    fs::write(&kept, text.lines().take(11).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    fs::write(&works, "").unwrap();
    let output = steer(&run, "report", &arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("10 finished steps are in "), "{}", stderr(&output));
    assert!(!kept.exists());
    let resumed = report(&run, "report");
    assert!(steer(&run, "report", &arguments).status.success());
    assert_eq!(resumed, report(&run, "report"));
    // Of another seed, nothing is used again.
    fs::write(&kept, text).unwrap();
    let output = steer(&run, "report", &[&arguments[..], &["--seed", "7"]].concat());
    assert!(output.status.success() && !stderr(&output).contains("finished steps"), "{}", stderr(&output));
}

#[test]
fn a_failed_measurement_leaves_no_report() {
    let run = with_lambda();
    let own = adapter(&run);
    let refused = |arguments: &[&str]| {
        let output = steer(&run, "refused", arguments);
        assert!(!output.status.success() && !run.path("refused").exists(), "{arguments:?}");
        let last = stderr(&output).lines().last().unwrap_or_default().to_owned();
        last.trim_start_matches("error: ").to_owned()
    };
    let kept = run.path("refused.unfinished.jsonl");
    let way_on =
        format!("; what was measured until then is in {}, and the same command goes on from there", kept.display());
    let rated = |command: &str| {
        let said = refused(&["--adapter", &own, "--rater", command]);
        said.strip_suffix(&way_on).unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    assert_eq!(
        rated("echo no model >&2; exit 3"),
        "the rater `echo no model >&2; exit 3` failed (exit status: 3): no model"
    );
    assert_eq!(
        rated("head -n 5 | sed 's/.*/{\"honesty\": 1}/'"),
        "the rater `head -n 5 | sed 's/.*/{\"honesty\": 1}/'` wrote 5 lines for 36 answers: it must write one for each, in \
         their order"
    );
    assert!(refused(&["--adapter", &own, "--lambda", "honesty=1"]).starts_with("steer measures a grid of λ"));
    assert!(refused(&["--soup", "honesty"]).starts_with("--soup takes NAME=DIR"));

    // An adapter with other dimensions than the records.
    let config = run.output_dir().join("adapter/adapter_config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"honesty\"", "\"candour\"")).unwrap();
    assert_eq!(
        refused(&["--adapter", &own]),
        "the adapter weighs helpfulness, candour, instruction_following, truthfulness, but the records are not rated in \
         candour: they have helpfulness, honesty, instruction_following, truthfulness"
    );
}
