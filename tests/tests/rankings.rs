//! Records with rankings, from the file to the batch and through the program: each rank counts as the rating that it
//! stands for.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use lambda_dpo_core as core;
use lambda_dpo_core::{Format, Layout};
use lambda_dpo_tests::batches::{collate_options, integers};
use lambda_dpo_tests::trainer::{Run, metrics, stderr};
use lambda_dpo_tests::{batch_fields, fixture, program};
use serde_json::{Value, json};
use tch::Tensor;

/// The fixtures' records: with rankings, and with the ratings that these stand for.
fn files() -> [(PathBuf, Format); 2] {
    [(fixture("rankings/records.jsonl"), Format::Rankings), (fixture("rankings/ratings.jsonl"), Format::UltraFeedback)]
}

fn open(path: PathBuf, format: Format, best_worst_pairs: bool) -> core::Dataset {
    let tokenizer = core::Tokenizer::open(&fixture("words"), None).unwrap();
    let options = core::DatasetOptions {
        convert: core::ConvertOptions { best_worst_pairs, ..core::ConvertOptions::new(format) },
        tokenize: core::TokenizeOptions::default(),
        tokens: core::dataset::TokenFolder::Scratch(std::env::temp_dir()),
    };
    core::Dataset::open(&[path], &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn fields(batch: &core::Batch) -> Vec<(&'static str, &Tensor)> {
    macro_rules! listed {
        ($($field:ident),*) => { vec![$((stringify!($field), &batch.$field)),*] };
    }
    batch_fields!(listed)
}

#[test]
fn batches_of_rankings_are_those_of_the_ratings() {
    for best_worst_pairs in [false, true] {
        let [ranked, rated] = files().map(|(path, format)| open(path, format, best_worst_pairs));
        assert_eq!((ranked.dimensions(), ranked.len()), (rated.dimensions(), rated.len()));
        assert_eq!(ranked.report().skipped, rated.report().skipped);
        assert_eq!(ranked.hash(), rated.hash(), "the samples differ");
        let indices: Vec<usize> = (0..ranked.len()).collect();
        let lambda = vec![0.5; indices.len() * ranked.dimensions().len()];
        for layout in [Layout::Packed, Layout::Rows, Layout::Expanded] {
            let [ranked, rated] =
                [&ranked, &rated].map(|dataset| dataset.batch(&indices, &lambda, &collate_options(layout)).unwrap());
            for ((name, ranked), (_, rated)) in fields(&ranked).into_iter().zip(fields(&rated)) {
                assert_eq!(ranked, rated, "{name}");
            }
        }
    }
}

/// Two dimensions over the C = 4 + 3 + 2 responses of the fixtures; the first does not rate the last prompt, and the
/// second not the prompt in the middle.
#[test]
fn a_batch_has_the_place_of_each_response() {
    let [(path, format), _] = files();
    let dataset = open(path, format, false);
    for layout in [Layout::Packed, Layout::Rows, Layout::Expanded] {
        let batch = dataset.batch(&[0, 1, 2], &[0.5; 6], &collate_options(layout)).unwrap();
        assert_eq!((batch.ranks.size(), batch.ranks.kind()), (vec![2, 9], tch::Kind::Int64));
        assert_eq!(integers(&batch.ranks), [1, 2, 3, 4, 2, 1, 0, 0, 0, 1, 1, 2, 3, 0, 0, 0, 2, 1]);
        assert_eq!(batch.ranks.gt(0), batch.target_mask);
    }
}

/// A softmax of ratings that lie far apart is 0 for several of them, but their order is known.
#[test]
fn ratings_far_apart_have_an_order_although_their_targets_are_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.jsonl");
    let completion = |rating: i32| json!({"response": "blue", "annotations": {"score": rating}});
    let completions = [0, 100, 40, 40, -3000].map(completion);
    let record = json!({"prompt": "hi", "completions": completions});
    fs::write(&path, record.to_string()).unwrap();
    let dataset = open(path, Format::UltraFeedback, false);
    let batch = dataset.batch(&[0], &[1.0], &collate_options(Layout::Packed)).unwrap();
    assert_eq!(integers(&batch.ranks), [3, 1, 2, 2, 4]);
    assert!(Vec::<f64>::try_from(batch.pi_target.reshape([-1])).unwrap()[4] == 0.0);
}

#[test]
fn convert_writes_the_same_samples() {
    let folder = tempfile::tempdir().unwrap();
    let written = files().map(|(path, format)| {
        let out = folder.path().join(format.name());
        let output = program(folder.path())
            .args(["convert", "--format", format.name(), "--records"])
            .args([&path, &PathBuf::from("--out"), &out])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        fs::read_to_string(out).unwrap()
    });
    assert_eq!(written[0].lines().count(), 3);
    assert_eq!(written[0], written[1]);
}

/// The run's records as rankings, and as the ratings that these stand for.
fn rewrite(run: &Run) {
    let text = fs::read_to_string(run.path("records.jsonl")).unwrap();
    let (mut ranked, mut rated) = (String::new(), String::new());
    for line in text.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let completions = record["completions"].as_array().unwrap().clone();
        let rating = |completion: &Value, name: &str| -> Option<i64> {
            completion["annotations"][name]["Rating"].as_str()?.parse().ok()
        };
        let mut rankings = serde_json::Map::new();
        for name in completions[0]["annotations"].as_object().unwrap().keys() {
            let own: Vec<Option<i64>> = completions.iter().map(|completion| rating(completion, name)).collect();
            let places: BTreeSet<i64> = own.iter().flatten().copied().collect();
            let rank = |own: &i64| 1 + places.iter().rev().position(|place| place == own).unwrap();
            let ranks: Vec<Option<usize>> = own.iter().map(|own| own.as_ref().map(rank)).collect();
            for (i, rank) in ranks.iter().enumerate() {
                record["completions"][i]["annotations"][name]["Rating"] =
                    json!(rank.map(|rank| places.len() + 1 - rank));
            }
            rankings.insert(name.clone(), json!(ranks));
        }
        let texts: Vec<&Value> = completions.iter().map(|completion| &completion["response"]).collect();
        let record_of_ranks = json!({"prompt": record["instruction"], "responses": texts, "rankings": rankings});
        ranked += &format!("{record_of_ranks}\n");
        rated += &format!("{record}\n");
    }
    fs::write(run.path("ranked.jsonl"), ranked).unwrap();
    fs::write(run.path("rated.jsonl"), rated).unwrap();
}

#[test]
fn training_on_rankings_is_training_on_the_ratings() {
    for stage in ["lambda_dpo", "dpo"] {
        let run = Run::new(stage);
        rewrite(&run);
        let rows = [("ranked", "rankings"), ("rated", "ultrafeedback")].map(|(name, format)| {
            let (records, output) = (run.path(&format!("{name}.jsonl")), run.path(name));
            let overrides = [
                format!("data.records=[{}]", records.display()),
                format!("data.format={format}"),
                format!("output_dir={}", output.display()),
                "train.max_steps=3".to_owned(),
                "data.eval_fraction=0.2".to_owned(),
                "train.eval_steps=3".to_owned(),
            ];
            run.train(&overrides.each_ref().map(String::as_str));
            metrics(&output)
        });
        assert!(rows[0].len() >= 4, "{rows:?}");
        for (ranked, rated) in rows[0].iter().zip(&rows[1]) {
            for key in ["loss", "grad_norm", "rewards/accuracies", "eval_loss", "eval_rewards/accuracies"] {
                assert_eq!(ranked.get(key), rated.get(key), "{stage}, {key}");
            }
        }
    }
}

#[test]
fn steer_measures_rankings() {
    let run = Run::new("lambda_dpo");
    rewrite(&run);
    let reports = [("ranked", "rankings"), ("rated", "ultrafeedback")].map(|(name, format)| {
        let out = run.path(&format!("report-{name}"));
        let mut command = program(&run.path("cache"));
        command.args(["steer", "--device", "cpu", "--format", format]).arg("--model").arg(run.path("model"));
        command.arg("--records").arg(run.path(&format!("{name}.jsonl"))).arg("--out").arg(&out);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_str(&fs::read_to_string(out.join("steer.json")).unwrap()).unwrap();
        report["points"][0]["held_out"].clone()
    });
    assert!(reports[0]["expected_rating/honesty"].as_f64().unwrap() >= 1.0, "{}", reports[0]);
    assert_eq!(reports[0], reports[1]);

    let refused = Run::program(&["steer", "--model", "m", "--records", "r", "--out", "o", "--format", "pairs"]);
    let expected = "error: --format must be ultrafeedback or rankings, not pairs: steer measures rated responses";
    assert_eq!(stderr(&refused).trim_end(), expected);
}

#[test]
fn a_ranking_that_makes_no_sense_is_named_with_its_line() {
    let run = Run::new("lambda_dpo");
    let record = |ranks: &str| format!(r#"{{"prompt":"q","responses":["a","b"],"rankings":{{"honesty":{ranks}}}}}"#);
    for (ranks, expected) in [
        (
            "[1,3]",
            "`rankings.honesty` has rank 3 but no rank 2: number the places without gaps; equal ranks tie, and the next one \
             is one more (1, 2, 2, 3)",
        ),
        ("[0,1]", "`rankings.honesty[0]` is 0: a rank is a whole number from 1 (the best) on, and a missing one null"),
        ("[1]", "`rankings.honesty` has 1 ranks for 2 responses: write null for a response without a rank"),
    ] {
        fs::write(run.path("records.jsonl"), format!("{}\n{}\n", record("[1,2]"), record(ranks))).unwrap();
        let output = run.try_train(&["data.format=rankings"]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        let expected = format!("error: {}, line 2: {expected}", run.path("records.jsonl").display());
        assert_eq!(text.lines().last().unwrap(), expected);
    }
    let output = Run::new("sft").try_train(&["data.format=rankings"]);
    assert!(
        stderr(&output).contains("stage \"sft\" needs data.format = \"chat\", not \"rankings\""),
        "{}",
        stderr(&output)
    );
}
