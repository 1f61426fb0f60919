//! The JSON Schemas match the types, and accept and reject the same input as the program.
//!
//! `make generate` (or `UPDATE_SCHEMAS=1 cargo test --workspace --test schemas`) writes them again.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use lambda_dpo_core::convert::convert_record;
use lambda_dpo_core::{ConvertOptions, Format, Record, Sample};
use lambda_dpo_host::config;
use lambda_dpo_host::evaluate::Evaluation;
use lambda_dpo_host::report::Report;
use lambda_dpo_tests::{fixture, program, root};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

/// The schema in draft 7, which editors support.
fn schema_of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>()
}

fn path(name: &str) -> PathBuf {
    root().join("schemas").join(format!("{name}.schema.json"))
}

fn validator(schema: &Schema) -> jsonschema::Validator {
    jsonschema::draft7::new(schema.as_value()).unwrap()
}

/// Every line of a file of JSON lines.
fn lines(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(fixture(path)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_committed_schemas_are_what_the_types_give() {
    let schemas = [
        ("record", schema_of::<Record>()),
        ("sample", schema_of::<Sample>()),
        ("config", config::schema()),
        ("evaluation", schema_of::<Evaluation>()),
        ("report", schema_of::<Report>()),
    ];
    for (name, schema) in schemas {
        let text = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            fs::write(path(name), &text).unwrap();
        }
        let committed = fs::read_to_string(path(name)).unwrap();
        assert!(committed == text, "{} differs from its type: run `make generate`", path(name).display());
    }
}

#[test]
fn the_program_prints_them() {
    for name in ["record", "sample", "config", "evaluation", "report"] {
        let output = program(&std::env::temp_dir()).args(["schema", name]).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), fs::read_to_string(path(name)).unwrap());
    }
}

#[test]
fn records_of_every_format_are_valid() {
    let validator = validator(&schema_of::<Record>());
    for file in ["demo/records.jsonl", "demo/sft.jsonl", "rankings/records.jsonl", "rankings/ratings.jsonl"] {
        for record in lines(file) {
            assert!(validator.is_valid(&record), "{record}");
        }
    }
    let turns = json!([{"from": "human", "value": "hi"}]);
    let rated =
        |annotations: Value| json!({"prompt": "q", "completions": [{"response": "a", "annotations": annotations}]});
    for (record, format) in [
        (
            rated(json!({"helpfulness": {"Rating": "N/A", "Rationale": "…"}, "honesty": {"Rating": null}})),
            Format::UltraFeedback,
        ),
        (rated(json!({"helpfulness": [{"Rating": 4.5}], "honesty": 3, "truthfulness": null})), Format::UltraFeedback),
        (rated(json!([{"Type": "helpfulness", "Rating": "4"}, {"Type": "honesty"}])), Format::UltraFeedback),
        (rated(Value::Null), Format::UltraFeedback),
        (json!({"prompt": "q", "chosen": "a", "rejected": "b"}), Format::Pairs),
        (
            json!({"conversations": turns, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}),
            Format::Pairs,
        ),
        (
            json!({"prompt": "q", "responses": ["a", {"role": "assistant", "content": "b"}],
                   "rankings": {"honesty": [1, 2], "helpfulness": ["2", 1.0], "brevity": [null, "N/A"], "truth": null}}),
            Format::Rankings,
        ),
        (json!({"messages": [{"role": "user", "content": "q"}], "responses": ["a"], "rankings": {}}), Format::Rankings),
        (json!({"conversations": turns, "system": "s", "tools": [{"name": "f"}]}), Format::Chat),
        (
            json!({"messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f"}], "weight": 0}],
                   "tools": "[]"}),
            Format::Chat,
        ),
    ] {
        assert!(validator.is_valid(&record), "{record}");
        Record::parse(&record.to_string(), format, 0).unwrap();
    }
}

#[test]
fn invalid_records_are_rejected_by_schema_and_parser() {
    let validator = validator(&schema_of::<Record>());
    for (record, format) in [
        (json!({"instruction": "q"}), Format::UltraFeedback),
        (json!({"completions": []}), Format::UltraFeedback),
        (json!({"instruction": 3, "completions": []}), Format::UltraFeedback),
        (json!({"instruction": "q", "completions": [{"annotations": {}}]}), Format::UltraFeedback),
        (json!({"instruction": "q", "completions": [{"response": "a", "annotations": "good"}]}), Format::UltraFeedback),
        (json!({"prompt": "q", "responses": ["a", "b"]}), Format::Rankings),
        (json!({"prompt": "q", "responses": [], "rankings": {}}), Format::Rankings),
        (json!({"prompt": "q", "responses": ["a", "b"], "rankings": [1, 2]}), Format::Rankings),
        (json!({"prompt": "q", "responses": ["a", "b"], "rankings": {"honesty": [0, 1]}}), Format::Rankings),
        (json!({"prompt": "q", "responses": ["a", "b"], "rankings": {"honesty": [1, 1.5]}}), Format::Rankings),
        (json!({"prompt": "q", "chosen": "a"}), Format::Pairs),
        (json!({"messages": []}), Format::Chat),
        (json!({"messages": [{"role": "user"}]}), Format::Chat),
        (json!({"messages": [{"role": "assistant", "content": null}]}), Format::Chat),
        (json!({"messages": [{"role": "user", "content": "x"}], "tools": [1]}), Format::Chat),
        (json!({"messages": [{"role": "user", "content": "x"}], "system": ["s"]}), Format::Chat),
        (json!({"conversations": [{"from": "nobody", "value": "hi"}]}), Format::Chat),
        (json!([]), Format::Chat),
    ] {
        assert!(!validator.is_valid(&record), "{record}");
        assert!(Record::parse(&record.to_string(), format, 0).is_err(), "{record}");
    }
}

#[test]
fn samples_are_valid() {
    let validator = validator(&schema_of::<Sample>());
    for (i, record) in lines("demo/eval.jsonl").into_iter().enumerate() {
        let options = ConvertOptions::new(Format::UltraFeedback);
        let sample = convert_record(&record.to_string(), i as u64, &options).unwrap().unwrap();
        assert!(validator.is_valid(&serde_json::to_value(&sample).unwrap()));
    }
    let least = json!({"prompt": "q", "responses": ["a"], "dimensions": ["d"], "pi_target": [[null]]});
    assert!(validator.is_valid(&least));
    Sample::from_json(&least.to_string()).unwrap();
    for field in ["prompt", "responses", "dimensions", "pi_target"] {
        let mut less = least.clone();
        less.as_object_mut().unwrap().remove(field);
        assert!(!validator.is_valid(&less), "{less}");
        assert!(Sample::from_json(&less.to_string()).is_err());
    }
}

fn config_files() -> Vec<PathBuf> {
    let folders = [root().join("docs/examples"), fixture("demo")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

#[test]
fn documented_configs_are_valid() {
    let validator = validator(&config::schema());
    let files = config_files();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let value: toml::Value = toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let value = serde_json::to_value(value).unwrap();
        let problems: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", file.display());
    }
}

#[test]
fn schema_and_program_accept_the_same_configs() {
    let validator = validator(&config::schema());
    let base =
        "stage = \"lambda_dpo\"\noutput_dir = \"runs/x\"\n[model]\npath = \"m\"\n[data]\nrecords = [\"r.jsonl\"]\n";
    let folder = tempfile::tempdir().unwrap();
    let accepted = |lines: &str| {
        let text = format!("{base}{lines}");
        let file = folder.path().join("config.toml");
        fs::write(&file, &text).unwrap();
        let value: toml::Value = toml::from_str(&text).unwrap();
        let by_schema = validator.is_valid(&serde_json::to_value(value).unwrap());
        let by_program = config::load(&file, std::iter::empty(), &[]);
        assert_eq!(by_schema, by_program.is_ok(), "{lines}: {by_program:?}");
        by_schema
    };
    for lines in [
        "",
        "missing_rating = 1.0",
        "missing_rating = \"mask\"",
        "max_samples = 3\n[adapter]\ntarget_modules = [\"q_proj\"]\nalpha = 3",
        "[lambda]\nschedule = \"fixed\"\nweights = { a = 0.5, b = 0.5 }",
    ] {
        assert!(accepted(lines), "{lines}");
    }
    for lines in [
        "cutoff_length = 3",
        "cutoff_len = -1",
        "cutoff_len = 10.5",
        "cutoff_len = \"10\"",
        "missing_rating = \"worst\"",
        "[trian]\nseed = 1",
        "[train]\nlr = 1",
        "[train]\nlr_scheduler_type = \"polynomial\"",
        "[adapter]\ntarget_modules = \"all\"",
        "[adapter]\nalpha = true",
        "[lambda]\nschedule = \"table\"\ntable = [{ weights = { a = 1.0 } }]",
    ] {
        assert!(!accepted(lines), "{lines}");
    }
}
