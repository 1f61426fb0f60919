//! `lambda-dpo schedule fit`, end to end.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use lambda_dpo_host::config::{self, LambdaRow, LambdaSection, Schedule};
use lambda_dpo_host::plugin::{Plugin, ScheduleKind, ScheduleOptions};
use lambda_dpo_host::schedule::{Anchors, Form};
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use lambda_dpo_tests::{fixture, plugin_library, program};
use serde_json::{Value, json};
use tempfile::TempDir;

const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];

/// A folder with files of anchors and candidates.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, lines: &[String]) -> String {
        fs::write(self.path(name), lines.join("\n")).unwrap();
        self.path(name).display().to_string()
    }

    /// Runs `schedule fit` into `out.toml`.
    fn fit(&self, arguments: &[&str]) -> Output {
        let mut command = program(&self.path("cache"));
        command.args(["schedule", "fit", "--out"]).arg(self.path("out.toml")).args(arguments);
        command.output().unwrap()
    }

    /// Fits, which must succeed, and returns the report.
    #[track_caller]
    fn report(&self, arguments: &[&str]) -> Value {
        let output = self.fit(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        serde_json::from_str(&fs::read_to_string(self.path("out.json")).unwrap()).unwrap()
    }

    /// The written section, as `train` reads it.
    fn section(&self) -> LambdaSection {
        let table: toml::Table = toml::from_str(&fs::read_to_string(self.path("out.toml")).unwrap()).unwrap();
        assert_eq!(table.keys().collect::<Vec<_>>(), ["lambda"]);
        table["lambda"].clone().try_into().unwrap()
    }

    fn rows(&self) -> Vec<LambdaRow> {
        self.section().table.unwrap()
    }

    /// Fits, which must fail with this last line (`{}` is the folder) and write nothing.
    #[track_caller]
    fn refuses(&self, arguments: &[&str], message: &str) {
        let output = self.fit(arguments);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let expected = format!("error: {}", message.replace("{}", &self.0.path().display().to_string()));
        assert_eq!(text.lines().last().unwrap(), expected);
        for entry in fs::read_dir(self.0.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(!name.contains("out."), "{name} was left");
        }
    }
}

fn line(names: &[&str], lambda: &[f64], score: f64) -> String {
    let lambda: BTreeMap<_, _> = names.iter().zip(lambda).collect();
    json!({"lambda": lambda, "score": score}).to_string()
}

/// Corners, which name one dimension each, and the centre.
fn corners_and_centre(scores: [f64; 5]) -> Vec<String> {
    let mut lines: Vec<String> =
        DIMENSIONS.iter().zip(scores).map(|(name, score)| line(&[name], &[1.0], score)).collect();
    lines.push(line(&DIMENSIONS, &[0.25; 4], scores[4]));
    lines
}

fn numbers(value: &Value) -> Vec<f64> {
    let values: Vec<&Value> = match value {
        Value::Array(values) => values.iter().collect(),
        Value::Object(values) => values.values().collect(),
        _ => panic!("{value}"),
    };
    values.into_iter().map(|value| value.as_f64().unwrap()).collect()
}

/// The values of a field in each object of a list.
fn column(list: &Value, field: &str) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|entry| entry[field].as_f64().unwrap()).collect()
}

/// Both sides are float64, and numpy adds in another order.
#[track_caller]
fn close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {found} against {expected}");
    }
}

#[test]
fn fits_and_tables_are_those_of_numpy() {
    let text = fs::read_to_string(fixture("golden/surrogate/goldens.json")).unwrap();
    let fits: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(fits.len(), 3);
    for fit in fits {
        let folder = Folder::new();
        let what = fit["name"].as_str().unwrap();
        let names: Vec<&str> =
            fit["dimensions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let anchors = fit["anchors"].as_array().unwrap().iter().zip(numbers(&fit["scores"]));
        let anchors: Vec<String> = anchors.map(|(lambda, score)| line(&names, &numbers(lambda), score)).collect();
        let lambda = |lambda: &Value| names.iter().copied().zip(numbers(lambda)).collect::<BTreeMap<_, _>>();
        let candidates = fit["candidates"].as_array().unwrap().iter();
        let candidates: Vec<String> = candidates.map(|row| json!({"lambda": lambda(row)}).to_string()).collect();
        let scores = folder.write("scores.jsonl", &anchors);
        let rows = folder.write("rows.jsonl", &candidates);
        let option = |key: &str| match &fit[key] {
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        let [form, ridge, temperature] = ["surrogate", "ridge", "temperature"].map(option);
        let mut arguments = vec!["--scores", &scores, "--candidates", &rows, "--surrogate", &form];
        arguments.extend(["--ridge", &ridge, "--temperature", &temperature]);
        if fit["minimize"] == true {
            arguments.push("--minimize");
        }
        let report = folder.report(&arguments);
        let coefficients = &report["coefficients"];
        close(&numbers(&json!([coefficients["intercept"]])), &numbers(&json!([fit["intercept"]])), what);
        close(&numbers(&coefficients["linear"]), &numbers(&fit["linear"]), what);
        close(&numbers(&coefficients["squares"]), &numbers(&fit["squares"]), what);
        close(&column(&coefficients["products"], "coefficient"), &numbers(&fit["products"]), what);
        close(&column(&report["anchors"], "residual"), &numbers(&fit["residuals"]), what);
        close(&column(&report["anchors"], "leave_one_out_error"), &numbers(&fit["leave_one_out_errors"]), what);
        for key in ["residual_rms", "leave_one_out_rms", "mean_of_others_rms"] {
            close(&[report[key].as_f64().unwrap()], &[fit[key].as_f64().unwrap()], key);
        }
        close(&column(&report["candidates"], "predicted"), &numbers(&fit["predicted"]), what);
        close(&column(&report["candidates"], "probability"), &numbers(&fit["probabilities"]), what);
        let rows = folder.rows();
        close(&rows.iter().map(|row| row.probability).collect::<Vec<_>>(), &numbers(&fit["probabilities"]), what);
        for (row, expected) in rows.iter().zip(fit["candidates"].as_array().unwrap()) {
            close(&names.iter().map(|name| row.weights[*name]).collect::<Vec<_>>(), &numbers(expected), what);
        }
    }
}

#[test]
fn equal_scores_give_equal_probabilities() {
    let folder = Folder::new();
    for score in [0.0, 0.3, -1234.5] {
        let scores = folder.write("scores.jsonl", &corners_and_centre([score; 5]));
        for form in [["--surrogate", "diagonal"], ["--temperature", "0.001"]] {
            folder.report(&[&["--scores", &scores], &form[..]].concat());
            let rows = folder.rows();
            assert_eq!(rows.len(), 10);
            assert!(rows.iter().all(|row| (row.probability - 0.1).abs() < 1e-12), "{rows:?}");
        }
    }
}

#[test]
fn candidates_are_the_draws_of_the_dirichlet_schedule() {
    let folder = Folder::new();
    let scores = folder.write("scores.jsonl", &corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]));
    let report = folder.report(&["--scores", &scores, "--num-candidates", "3", "--seed", "7"]);
    let schedule = Plugin::load(Some(&plugin_library())).unwrap();
    let kind = ScheduleKind::Dirichlet { alpha: 1.0 };
    let schedule = schedule.schedule(&ScheduleOptions { kind, num_dimensions: 4 }).unwrap();
    let rows = folder.rows();
    assert_eq!((rows.len(), report["seed"].as_u64()), (3, Some(7)));
    for (record, row) in (0..).zip(&rows) {
        let drawn = schedule.draw_instance(7, 0, record).unwrap();
        assert_eq!(DIMENSIONS.map(|name| row.weights[name]).to_vec(), drawn);
    }
    assert!((rows.iter().map(|row| row.probability).sum::<f64>() - 1.0).abs() < 1e-12);

    // The same command writes the same bytes, and another seed other rows.
    let first = fs::read(folder.path("out.toml")).unwrap();
    folder.report(&["--scores", &scores, "--num-candidates", "3", "--seed", "7"]);
    assert_eq!(fs::read(folder.path("out.toml")).unwrap(), first);
    folder.report(&["--scores", &scores, "--num-candidates", "3", "--seed", "8"]);
    assert_ne!(fs::read(folder.path("out.toml")).unwrap(), first);
}

#[test]
fn the_better_the_score_the_larger_the_probability() {
    let folder = Folder::new();
    let scores = folder.write("scores.jsonl", &corners_and_centre([1.0, 0.0, 0.0, 0.0, 0.4]));
    let candidates: Vec<String> = DIMENSIONS.iter().map(|name| json!({"lambda": {*name: 1.0}}).to_string()).collect();
    let candidates = folder.write("candidates.jsonl", &candidates);
    let arguments = ["--scores", &scores, "--candidates", &candidates, "--temperature", "0.5"];
    folder.report(&arguments);
    let best = |rows: &[LambdaRow]| rows.iter().map(|row| row.probability).collect::<Vec<_>>();
    let (most, rest) = (best(&folder.rows())[0], best(&folder.rows())[1]);
    // e² times as large at temperature 0.5, a little less for the ridge.
    assert!((most / rest - 2.0_f64.exp()).abs() < 0.05, "{most} against {rest}");
    folder.report(&[&arguments[..], &["--minimize"]].concat());
    assert!(best(&folder.rows())[0] < best(&folder.rows())[1]);
}

#[test]
fn a_run_draws_the_rows_of_a_fitted_table() {
    let run = Run::new("lambda_dpo");
    let folder = Folder::new();
    let scores = folder.write("scores.jsonl", &corners_and_centre([0.41, 0.37, 0.55, 0.30, 0.98]));
    folder.report(&["--scores", &scores, "--num-candidates", "4"]);
    // The section goes into a config as it is, here at its end.
    let config = fs::read_to_string(run.path("run.toml")).unwrap();
    let section = fs::read_to_string(folder.path("out.toml")).unwrap();
    fs::write(run.path("run.toml"), format!("{config}{section}")).unwrap();
    let loaded = config::load(&run.path("run.toml"), std::iter::empty(), &[]).unwrap();
    assert_eq!((loaded.lambda.schedule, loaded.lambda), (Schedule::Table, folder.section()));

    run.train(&["train.max_steps=6", "lambda.per=step"]);
    let rows = folder.rows();
    let steps: Vec<Value> =
        metrics(&run.output_dir()).into_iter().filter(|line| line.get("lambda/honesty").is_some()).collect();
    assert_eq!(steps.len(), 6);
    for step in steps {
        let drawn = DIMENSIONS.map(|name| step[format!("lambda/{name}")].as_f64().unwrap());
        // The batch holds λ in float32.
        let is_drawn =
            |row: &LambdaRow| DIMENSIONS.iter().zip(drawn).all(|(name, w)| (row.weights[*name] - w).abs() < 1e-6);
        assert!(rows.iter().any(is_drawn), "{drawn:?} is no row of {rows:?}");
    }
}

#[test]
fn the_report_of_a_lambda_adapter_gives_anchors() {
    let run = Run::new("lambda_dpo");
    run.train(&["train.max_steps=2", "train.learning_rate=0.05", "adapter.kind=lambda_lora", "adapter.rank=2"]);
    let folder = Folder::new();
    let steer = |adapter: bool, name: &str| {
        let mut command = program(&run.path("cache"));
        command.args(["steer", "--device", "cpu", "--steps", "2", "--out"]).arg(folder.path(name));
        command.arg("--model").arg(run.path("model")).arg("--records").arg(run.path("records.jsonl"));
        if adapter {
            command.arg("--adapter").arg(run.output_dir().join("adapter"));
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        folder.path(name).display().to_string()
    };
    let steered = steer(true, "steered");
    let measured: Value =
        serde_json::from_str(&fs::read_to_string(folder.path("steered/steer.json")).unwrap()).unwrap();

    let report = folder.report(&["--steer", &steered, "--metric", "expected_rating", "--temperature", "0.1"]);
    let anchors = report["anchors"].as_array().unwrap();
    assert_eq!((anchors.len(), measured["points"].as_array().unwrap().len()), (12, 12));
    for (anchor, point) in anchors.iter().zip(measured["points"].as_array().unwrap()) {
        // The demo's dimensions are sorted, so the order is the report's.
        close(&numbers(&anchor["lambda"]), &numbers(&point["lambda"]), "λ");
        let ratings = DIMENSIONS.map(|name| point["held_out"][format!("expected_rating/{name}")].as_f64().unwrap());
        close(&[anchor["score"].as_f64().unwrap()], &[ratings.iter().sum::<f64>() / 4.0], "mean rating");
    }
    let report = folder.report(&["--steer", &steered, "--metric", "eval_loss/honesty", "--minimize"]);
    for (anchor, point) in report["anchors"].as_array().unwrap().iter().zip(measured["points"].as_array().unwrap()) {
        assert_eq!(anchor["score"], point["held_out"]["eval_loss/honesty"]);
    }
    let (predicted, probabilities) =
        (column(&report["candidates"], "predicted"), column(&report["candidates"], "probability"));
    for (first, second) in (0..9).map(|index| (index, index + 1)) {
        assert_eq!(predicted[first] < predicted[second], probabilities[first] > probabilities[second]);
    }

    fs::remove_file(folder.path("out.toml")).unwrap();
    fs::remove_file(folder.path("out.json")).unwrap();
    folder.refuses(
        &["--steer", &steered, "--metric", "expected_rating/candour"],
        &format!(
            "{steered}: the report has no metric `expected_rating/candour`: it has {}; the part before the name of a \
             dimension, such as expected_rating, is the mean over all dimensions",
            measured["points"][0]["held_out"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(", ")
        ),
    );
    folder.refuses(
        &["--steer", &steered, "--metric", "eval_loss"],
        "{}/steered: eval_loss is better the lower it is: add --minimize",
    );
    folder.refuses(
        &["--steer", &steered, "--metric", "expected_rating", "--surrogate", "full"],
        "{}/steered: the anchors determine 8 of the 10 coefficients of a full surrogate: add some that weigh each pair of \
         dimensions, or use --surrogate diagonal",
    );
    let single = steer(false, "single");
    folder.refuses(
        &["--steer", &single, "--metric", "expected_rating"],
        "{}/single: anchors at 1 different λ are too few for a diagonal surrogate over 4 dimensions (helpfulness, honesty, \
         instruction_following, truthfulness): add some until there are 5, such as the corners (all weight on one \
         dimension) and the centre (equal weights)",
    );
    folder.refuses(
        &["--steer", "no/such/report", "--metric", "score"],
        "no/such/report/steer.json cannot be read: pass a folder written by `steer --out`: No such file or directory (os \
         error 2)",
    );
}

#[test]
fn anchors_that_do_not_determine_a_surrogate_are_refused() {
    let folder = Folder::new();
    // Read by the library, because a process for each would take long.
    let refuses = |lines: &[String], form: Form, message: &str| {
        let scores = folder.write("scores.jsonl", lines);
        let error = Anchors::read(scores.as_ref(), None).unwrap().check(form).unwrap_err();
        assert_eq!(error.to_string(), message);
    };
    let five = corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]);
    let names = "(helpfulness, honesty, instruction_following, truthfulness)";
    let such_as = "such as the corners (all weight on one dimension) and the centre (equal weights)";
    refuses(
        &five[..4],
        Form::Diagonal,
        &format!(
            "anchors at 4 different λ are too few for a diagonal surrogate over 4 dimensions {names}: add some until there \
             are 5, {such_as}"
        ),
    );
    // An anchor that occurs twice is one λ.
    refuses(
        &[&five[..4], &five[..1]].concat(),
        Form::Diagonal,
        &format!(
            "anchors at 4 different λ are too few for a diagonal surrogate over 4 dimensions {names}: add some until there \
             are 5, {such_as}"
        ),
    );
    refuses(
        &five,
        Form::Full,
        &format!(
            "anchors at 5 different λ are too few for a full surrogate over 4 dimensions {names}: add some until there are \
             10, or use --surrogate diagonal"
        ),
    );
    refuses(
        &[five[4].clone(), five[4].clone(), five[4].clone()],
        Form::Diagonal,
        "all 3 anchors are at the same λ: add the corners (all weight on one dimension) and the centre (equal weights)",
    );
    refuses(&[], Form::Diagonal, "there are no anchors");
    refuses(
        &five[..1],
        Form::Diagonal,
        "helpfulness is the only dimension, so its λ is always 1: there is nothing to fit",
    );
    let without: Vec<String> = (0..5)
        .map(|step| line(&["a", "b", "c"], &[f64::from(step) / 4.0, 1.0 - f64::from(step) / 4.0, 0.0], 1.0))
        .collect();
    refuses(
        &without,
        Form::Diagonal,
        "no anchor gives `c` a weight above 0: add one that does, or leave the dimension out",
    );
    let along_a_line: Vec<String> =
        (0..5).map(|step| f64::from(step) / 8.0).map(|w| line(&["a", "b", "c"], &[w, w, 1.0 - 2.0 * w], w)).collect();
    refuses(
        &along_a_line,
        Form::Diagonal,
        "the anchors vary in 1 of the 2 directions of λ over a, b, c: add the corners (all weight on one dimension)",
    );
    let scores = folder.write("scores.jsonl", &five[..1]);
    folder.refuses(
        &["--scores", &scores],
        "{}/scores.jsonl: helpfulness is the only dimension, so its λ is always 1: there is nothing to fit",
    );
    let scores = folder.write("scores.jsonl", &corners_and_centre([1.7e308, -1.7e308, 0.3, 0.4, 0.5]));
    folder.refuses(
        &["--scores", &scores],
        "{}/scores.jsonl: the fit overflows: divide the scores, which reach 1.7e308, by a constant",
    );
}

#[test]
fn lines_that_are_no_anchors_are_refused() {
    let folder = Folder::new();
    let refuses = |bad: &str, message: &str| {
        let mut lines = corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]);
        lines.insert(2, String::new());
        lines.insert(3, bad.to_owned());
        let scores = folder.write("scores.jsonl", &lines);
        let error = Anchors::read(scores.as_ref(), None).unwrap_err();
        assert_eq!(error.to_string(), format!("{scores}, line 4: {message}"));
        scores
    };
    let shape = r#"each line is {"lambda": {name: weight, …}, "score": number}"#;
    refuses(
        r#"{"lambda": {"honesty": 1}, "score": "#,
        &format!("not valid JSON: EOF while parsing a value at column 36; {shape}"),
    );
    refuses(r#"{"lambda": {"honesty": 1}}"#, &format!("missing field `score`; {shape}"));
    refuses(r#"{"score": 1}"#, &format!("missing field `lambda`; {shape}"));
    refuses(
        r#"{"lambda": {"honesty": 1}, "score": 1, "note": "x"}"#,
        &format!("unknown field `note`, expected `lambda` or `score`; {shape}"),
    );
    refuses(r#"{"lambda": [1, 0], "score": 1}"#, &format!("invalid type: sequence, expected λ by name; {shape}"));
    refuses(
        r#"{"lambda": {"honesty": 0.5, "honesty": 0.5}, "score": 1}"#,
        &format!("λ names `honesty` twice; {shape}"),
    );
    for word in ["NaN", "Infinity", "-Infinity"] {
        let bad = format!(r#"{{"lambda": {{"honesty": 1}}, "score": {word}}}"#);
        let word = word.trim_start_matches('-');
        refuses(&bad, &format!("{word} is not valid JSON: weights and scores must be finite numbers"));
    }
    refuses(
        r#"{"lambda": {"honesty": 1}, "score": 1e999}"#,
        &format!("not valid JSON: number out of range at column 41; {shape}"),
    );
    for score in ["null", r#""0.5""#, "true"] {
        let bad = format!(r#"{{"lambda": {{"honesty": 1}}, "score": {score}}}"#);
        refuses(&bad, &format!("the score is {score}, but it must be a finite number"));
    }
    refuses(
        r#"{"lambda": {"honesty": 0.5, "helpfulness": 0.502}, "score": 1}"#,
        "the weights of λ sum to 1.002: they must sum to 1 within 0.001",
    );
    refuses(r#"{"lambda": {}, "score": 1}"#, "the weights of λ sum to 0: they must sum to 1 within 0.001");
    refuses(
        r#"{"lambda": {"honesty": 1.5, "helpfulness": -0.5}, "score": 1}"#,
        "λ gives `helpfulness` the weight -0.5: weights must be numbers of at least 0",
    );
    let scores = refuses(
        r#"{"lambda": {"honesty": "1"}, "score": 1}"#,
        "λ gives `honesty` the weight \"1\": weights must be numbers of at least 0",
    );
    folder.refuses(
        &["--scores", &scores],
        "{}/scores.jsonl, line 4: λ gives `honesty` the weight \"1\": weights must be numbers of at least 0",
    );
}

#[test]
fn unknown_dimensions_are_refused() {
    let folder = Folder::new();
    let mut lines = corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]);
    let scores = folder.write("scores.jsonl", &lines);
    let candidates = folder.write("candidates.jsonl", &[r#"{"lambda": {"honest": 1}}"#.into()]);
    folder.refuses(
        &["--scores", &scores, "--candidates", &candidates],
        "{}/candidates.jsonl, line 1: λ names the dimension `honest`, which is none of helpfulness, honesty, \
         instruction_following, truthfulness",
    );
    let candidates = folder.write("candidates.jsonl", &["\n".into()]);
    folder.refuses(&["--scores", &scores, "--candidates", &candidates], "{}/candidates.jsonl holds no candidates");
    let candidates = folder.write("candidates.jsonl", &[line(&["honesty"], &[1.0], 0.5)]);
    folder.refuses(
        &["--scores", &scores, "--candidates", &candidates],
        "{}/candidates.jsonl, line 1: unknown field `score`, expected `lambda`; each line is {\"lambda\": {name: weight, …}}",
    );
    // With a list of dimensions, a slip of the pen in one of many anchors is found.
    lines.push(line(&["honest", "helpfulness"], &[0.5, 0.5], 0.3));
    let scores = folder.write("scores.jsonl", &lines);
    let dimensions = "truthfulness,honesty,helpfulness,instruction_following";
    folder.refuses(
        &["--scores", &scores, "--dimensions", dimensions],
        "{}/scores.jsonl, line 6: λ names the dimension `honest`, which is none of truthfulness, honesty, helpfulness, \
         instruction_following",
    );
    folder.refuses(&["--scores", &scores, "--dimensions", "a,b,a"], "--dimensions names `a` twice");
    let scores = folder.write("scores.jsonl", &lines[..5]);
    let report = folder.report(&["--scores", &scores, "--dimensions", dimensions]);
    assert_eq!(report["dimensions"], json!(dimensions.split(',').collect::<Vec<_>>()));
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let folder = Folder::new();
    let scores = folder.write("scores.jsonl", &corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]));
    for (arguments, message) in [
        (["--ridge", "0"], "--ridge must be a number above 0, not 0"),
        (["--ridge", "inf"], "--ridge must be a number above 0, not inf"),
        (["--temperature", "0"], "--temperature must be a number above 0, not 0"),
        (["--temperature", "NaN"], "--temperature must be a number above 0, not NaN"),
        (["--num-candidates", "0"], "--num-candidates must be at least 1, not 0"),
    ] {
        folder.refuses(&[&["--scores", &scores], &arguments[..]].concat(), message);
    }
    folder.refuses(
        &["--scores", "no/such/file.jsonl"],
        "no/such/file.jsonl cannot be read: No such file or directory (os error 2)",
    );
    // Of flags that exclude or need each other, clap says so.
    for arguments in [
        vec![],
        vec!["--scores", &scores, "--steer", "report", "--metric", "score"],
        vec!["--scores", &scores, "--metric", "score"],
        vec!["--steer", "report"],
        vec!["--scores", &scores, "--candidates", "f", "--seed", "1"],
        vec!["--scores", &scores, "--surrogate", "cubic"],
    ] {
        let output = folder.fit(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn a_report_replaces_only_a_report() {
    let folder = Folder::new();
    let lines = corners_and_centre([0.1, 0.2, 0.3, 0.4, 0.5]);
    let fit = |scores: &str, out: &str| {
        let out = folder.path(out);
        Run::program(&["schedule", "fit", "--scores", scores, "--out", out.to_str().unwrap()])
    };
    // The anchors themselves have the report's name.
    let scores = folder.write("fit.json", &lines);
    let output = fit(&scores, "fit.toml");
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "error: {scores} exists and is no report of `schedule fit`, which would replace it: choose another name for --out"
        )
    );
    assert_eq!(fs::read_to_string(&scores).unwrap(), lines.join("\n"));
    assert!(!folder.path("fit.toml").exists());
    for _ in 0..2 {
        assert!(fit(&scores, "other.toml").status.success());
    }
    let output = fit(&scores, "table.txt");
    assert_eq!(
        stderr(&output).trim_end(),
        format!(
            "error: --out must end in .toml, because a report is written beside it: {} does not",
            folder.path("table.txt").display()
        )
    );
}
