#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;

use ndarray::Array2;

use super::*;
use crate::Format;

/// A record with the ratings of each response in order; `x` leaves a rating out.
fn rated(source: &str, responses: &[&[(&str, &str)]]) -> String {
    let completions: Vec<String> = responses
        .iter()
        .enumerate()
        .map(|(i, ratings)| {
            let ratings: Vec<String> = ratings.iter().map(|(k, r)| format!(r#""{k}":{{"Rating":{r}}}"#)).collect();
            format!(r#"{{"response":"r{i}","annotations":{{{}}}}}"#, ratings.join(","))
        })
        .collect();
    format!(r#"{{"source":"{source}","instruction":"q","completions":[{}]}}"#, completions.join(","))
}

fn convert(json: &str, options: &ConvertOptions) -> Option<Sample> {
    convert_record(json, 3, options).unwrap()
}

fn options() -> ConvertOptions {
    ConvertOptions::new(Format::UltraFeedback)
}

fn assert_close(found: &Array2<f64>, expected: &[&[f64]]) {
    assert_eq!(found.nrows(), expected.len());
    for (row, expected) in found.rows().into_iter().zip(expected) {
        assert_eq!(row.len(), expected.len());
        for (a, b) in row.iter().zip(*expected) {
            assert!((a - b).abs() < 1e-15 || a.is_nan() && b.is_nan(), "{found:?}");
        }
    }
}

/// Reads a file of these lines. Returns the samples (with errors without the folder) and the reader.
fn read(lines: &[String], options: ConvertOptions) -> (Vec<std::result::Result<Sample, String>>, SampleReader) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    let mut reader = SampleReader::open(&[path], options).unwrap();
    let prefix = format!("{}/", folder.path().display());
    let samples = reader.by_ref().map(|sample| sample.map_err(|e| e.to_string().replace(&prefix, ""))).collect();
    (samples, reader)
}

#[test]
fn targets_are_softmaxes_over_ratings() {
    let json = rated("s", &[&[("b", "1"), ("a", "\"3\"")], &[("b", "1"), ("a", "2")], &[("b", "1"), ("a", "5")]]);
    let sample = convert(&json, &options()).unwrap();
    assert_eq!((sample.record_index, sample.dimensions.as_slice()), (3, &["a".to_owned(), "b".to_owned()][..]));
    let z = 3f64.exp() + 2f64.exp() + 5f64.exp();
    let third = 1.0 / 3.0;
    assert_close(&sample.ratings, &[&[3.0, 2.0, 5.0], &[1.0; 3]]);
    assert_close(&sample.pi_target, &[&[3f64.exp() / z, 2f64.exp() / z, 5f64.exp() / z], &[third; 3]]);
    let sample = convert(&json, &ConvertOptions { temperature: 1e-3, ..options() }).unwrap();
    assert_close(&sample.pi_target, &[&[0.0, 0.0, 1.0], &[third; 3]]);
}

#[test]
fn missing_ratings_are_masked_or_filled() {
    let json = rated("s", &[&[("a", "1"), ("b", "2")], &[("a", "\"N/A\"")], &[("a", "1"), ("b", "null")]]);
    let half_masked = convert(&json, &options()).unwrap();
    let nan = f64::NAN;
    assert_close(&half_masked.pi_target, &[&[0.5, nan, 0.5], &[nan; 3]]);
    let filled = convert(&json, &ConvertOptions { missing_rating: MissingRating::Value(1.0), ..options() }).unwrap();
    let (e, z) = (1f64.exp(), 1f64.exp() + 2.0);
    assert_close(&filled.pi_target, &[&[1.0 / 3.0; 3], &[e / z, 1.0 / z, 1.0 / z]]);
    assert_close(&filled.ratings, &[&[1.0, nan, 1.0], &[2.0, nan, nan]]);
}

#[test]
fn records_left_out_are_counted() {
    let lines = [
        rated("a", &[&[("x", "1")], &[("x", "2")]]),
        rated("a", &[&[("x", "1")]]),
        rated("a", &[&[("x", "\"N/A\"")], &[("x", "2")]]),
        rated("truthful_qa", &[&[("z", "1")], &[("z", "2")]]),
        rated("a", &[&[("x", "\"\"")], &[("x", "1")], &[("x", "1"), ("y", "\"nan\"")]]),
    ];
    let options = ConvertOptions { exclude_sources: vec!["truthful_qa".into()], ..options() };
    let (samples, reader) = read(&lines, options);
    let indices: Vec<u64> = samples.iter().map(|sample| sample.as_ref().unwrap().record_index).collect();
    assert_eq!(indices, [0, 4]);
    assert_eq!((reader.dimensions(), reader.num_records()), (&["x".to_owned(), "y".to_owned()][..], Some(5)));
    let report = r#"{"num_records":5,"num_samples":2,"#.to_owned()
        + r#""skipped":{"excluded_source":1,"fewer_than_two_responses":1,"no_rated_dimension":1},"#
        + r#""missing_ratings":{"N/A":{"count":1,"first_record":2},"absent":{"count":7,"first_record":0},"#
        + r#""empty":{"count":1,"first_record":4},"nan":{"count":1,"first_record":4}},"#
        + r#""num_truncated":0,"num_dropped_responses":0,"ignored_fields":{}}"#;
    assert_eq!(serde_json::to_string(reader.report()).unwrap(), report);
}

#[test]
fn best_and_worst_make_a_pair() {
    let options = ConvertOptions { best_worst_pairs: true, ..options() };
    let json = rated(
        "s",
        &[&[("a", "3"), ("b", "3")], &[("a", "5"), ("b", "null")], &[("a", "1"), ("b", "2")], &[("a", "\"N/A\"")]],
    );
    let sample = convert(&json, &options).unwrap();
    assert_eq!(sample.responses, ["r1", "r2"]);
    assert_eq!(sample.dimensions, [PREFERENCE]);
    assert_close(&sample.ratings, &[&[5.0, 1.5]]);
    assert_close(&sample.pi_target, &[&[1.0, 0.0]]);
    let tie = rated("s", &[&[("a", "0.1"), ("b", "0.2")], &[("a", "0.2"), ("b", "0.1")]]);
    let unrated = rated("s", &[&[("a", "1")], &[]]);
    let (samples, reader) = read(&[tie, unrated], options);
    assert!(samples.is_empty());
    assert_eq!(reader.dimensions(), [PREFERENCE]);
    assert_eq!(reader.report().skipped, [("best_and_worst_tie".into(), 1), ("no_rated_dimension".into(), 1)].into());
}

#[test]
fn keep_all_keeps_every_record_that_parses() {
    let options = ConvertOptions { keep_all: true, dimensions: Some(vec!["zzz".into()]), ..options() };
    let (samples, reader) = read(&[rated("s", &[]), rated("s", &[&[]]), rated("s", &[&[("a", "1")], &[]])], options);
    let lengths: Vec<usize> = samples.iter().map(|sample| sample.as_ref().unwrap().responses.len()).collect();
    assert_eq!(lengths, [0, 1, 2]);
    assert!(reader.report().skipped.is_empty());
}

#[test]
fn pairs_and_conversations() {
    let json = r#"{"prompt":"q","chosen":"a","rejected":"b"}"#;
    let sample = convert(json, &ConvertOptions::new(Format::Pairs)).unwrap();
    assert_eq!(
        sample.to_json().unwrap(),
        r#"{"prompt":"q","responses":["a","b"],"dimensions":["preference"],"ratings":[[null,null]],"pi_target":[[1.0,0.0]],"record":3}"#
    );
    let chat = ConvertOptions::new(Format::Chat);
    let json = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    let sample = convert(json, &chat).unwrap();
    assert!(sample.is_conversation());
    assert_eq!(
        sample.to_json().unwrap(),
        r#"{"prompt":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"responses":[],"dimensions":[],"ratings":[],"pi_target":[],"record":3}"#
    );
    assert!(convert(r#"{"messages":[{"role":"user","content":"q"}]}"#, &chat).is_none());
}

#[test]
fn at_most_max_samples_records_are_read() {
    let lines = [rated("s", &[&[("a", "1")]]), rated("s", &[&[("a", "1")], &[("a", "2")]]), "not JSON".into()];
    let (samples, reader) = read(&lines, ConvertOptions { max_samples: Some(2), ..options() });
    assert_eq!((samples.len(), reader.report().num_records, reader.num_records()), (1, 2, Some(2)));
}

#[test]
fn named_dimensions_must_occur() {
    let lines = [rated("s", &[&[("a", "1"), ("b", "1")], &[("a", "2")]])];
    let named =
        |names: &[&str]| ConvertOptions { dimensions: Some(names.iter().map(|&n| n.into()).collect()), ..options() };
    let (samples, _) = read(&lines, named(&["a"]));
    assert_eq!(samples[0].as_ref().unwrap().dimensions, ["a"]);
    let (samples, _) = read(&lines, named(&["a", "c"]));
    assert_eq!(
        samples.last().unwrap().as_ref().unwrap_err(),
        "no record rates the dimension `c`; dimensions in the records: a, b"
    );
    let (samples, _) = read(&[], named(&["a"]));
    assert!(samples.is_empty());
}

#[test]
fn errors_name_file_and_line() {
    let good = rated("s", &[&[("a", "1")], &[("a", "2")]]);
    let (samples, reader) = read(&[good.clone(), r#"{"instruction":"q"}"#.into(), good], options());
    assert_eq!(samples.len(), 2);
    assert_eq!(
        samples[1].as_ref().unwrap_err(),
        "x.jsonl, line 2: `completions` is missing: expected a list of {response, annotations} objects"
    );
    assert_eq!(reader.report().num_records, 1);
    let error = convert_record("{}", 9, &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "record 9: `completions` is missing: expected a list of {response, annotations} objects"
    );
}

#[test]
fn options_that_make_no_sense_are_rejected() {
    let cases = [
        (ConvertOptions { temperature: 0.0, ..options() }, "temperature is 0: it must be a finite number above 0"),
        (
            ConvertOptions { temperature: f64::NAN, ..options() },
            "temperature is NaN: it must be a finite number above 0",
        ),
        (
            ConvertOptions { missing_rating: MissingRating::Value(f64::INFINITY), ..options() },
            "missing_rating is inf: it must be \"mask\" or a finite number",
        ),
        (ConvertOptions { dimensions: Some(vec!["a".into(), "a".into()]), ..options() }, "dimensions names `a` twice"),
        (
            ConvertOptions { dimensions: Some(Vec::new()), ..options() },
            "dimensions is empty: name at least one, or leave it out to use all",
        ),
        (
            ConvertOptions { best_worst_pairs: true, keep_all: true, ..options() },
            "best_worst_pairs and keep_all contradict each other: ties have no best response",
        ),
    ];
    for (options, expected) in cases {
        assert_eq!(Converter::new(options).unwrap_err().to_string(), expected);
    }
}

#[test]
fn samples_read_back_to_the_last_bit() {
    let json = rated("s", &[&[("a", "0.1"), ("b", "1e-7")], &[("a", "2.675")], &[("a", "1.7976931348623157e308")]]);
    let sample = convert(&json, &ConvertOptions { temperature: 3.3, ..options() }).unwrap();
    let written = sample.to_json().unwrap();
    let read = Sample::from_json(&written).unwrap();
    assert_eq!(read.to_json().unwrap(), written);
    let bits = |array: &Array2<f64>| array.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read.pi_target), bits(&sample.pi_target));
    assert_eq!(bits(&read.ratings), bits(&sample.ratings));
}

#[test]
fn samples_whose_shapes_disagree_are_rejected() {
    let sample = |pi: &str| format!(r#"{{"prompt":"q","responses":["a","b"],"dimensions":["k"],"pi_target":{pi}}}"#);
    let read = Sample::from_json(&sample("[[0.25,0.75]]")).unwrap();
    assert!(read.ratings.iter().all(|rating| rating.is_nan()));
    let cases = [
        ("[]", "not a valid sample: `pi_target` has 0 rows for 1 dimensions"),
        ("[[1]]", "not a valid sample: `pi_target[0]` has 1 numbers for 2 responses"),
        ("[[0.5,0.6]]", "not a valid sample: `pi_target` of `k` sums to 1.1: a distribution sums to 1"),
        ("[[1.5,-0.5]]", "not a valid sample: `pi_target` of `k` has a negative number"),
    ];
    for (pi, expected) in cases {
        assert_eq!(Sample::from_json(&sample(pi)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn real_ratings_convert() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/topical_chat.jsonl");
    if !path.exists() {
        return;
    }
    let mut reader = SampleReader::open(&[path], options()).unwrap();
    let samples: Vec<Sample> = reader.by_ref().map(|sample| sample.unwrap()).collect();
    assert_eq!(reader.dimensions(), ["coherence", "engagingness", "groundedness", "naturalness", "understandability"]);
    assert_eq!(samples.len() as u64 + reader.report().skipped.values().sum::<u64>(), 40);
    for sample in &samples {
        assert_eq!((sample.pi_target.dim(), sample.responses.len()), ((5, 6), 6));
        assert!(sample.pi_target.rows().into_iter().all(|row| (row.sum() - 1.0).abs() < 1e-12));
    }
}

#[test]
fn fields_without_effect_are_counted() {
    let with = |field: &str| rated("s", &[&[("x", "1")], &[("x", "2")]]).replacen('{', &format!("{{\"{field}\":1,"), 1);
    let (samples, reader) = read(&[with("id"), with("id"), with("other")], options());
    assert_eq!(samples.len(), 3);
    let fields: Vec<_> = reader.report().ignored_fields.iter().map(|(name, count)| (name.as_ref(), *count)).collect();
    assert_eq!(fields, [("id", 2), ("other", 1)]);

    let many: Vec<String> = (0..MAX_IGNORED_NAMES + 5).map(|i| with(&format!("key{i}"))).collect();
    let (_, reader) = read(&many, options());
    assert_eq!(reader.report().ignored_fields.len(), MAX_IGNORED_NAMES + 1);
    assert_eq!(reader.report().ignored_fields["…"], 5);
}

#[test]
fn a_nan_is_a_missing_rating_and_counted() {
    let (samples, reader) = read(&[rated("s", &[&[("x", "NaN")], &[("x", "2")], &[("x", "3")]])], options());
    assert!(samples[0].as_ref().unwrap().ratings[[0, 0]].is_nan());
    let missing = MissingRatings { count: 1, first_record: 0 };
    assert_eq!(reader.report().missing_ratings["nan"], missing);
    assert_eq!(reader.dimensions(), ["x"]);
}

#[test]
fn a_sample_keeps_its_tools_and_the_fields_of_its_turns() {
    let json = r#"{"system":"S","tools":"[{\"name\":\"get\"}]","prompt":[{"role":"user","content":"q","name":"Ada"}],"chosen":"a","rejected":"b"}"#;
    let sample = convert(json, &ConvertOptions::new(Format::Pairs)).unwrap();
    let written = sample.to_json().unwrap();
    assert!(written.starts_with(concat!(
        r#"{"prompt":[{"role":"system","content":"S"},{"role":"user","content":"q","name":"Ada"}],"#,
        r#""tools":[{"name":"get"}],"responses":["a","b"],"#
    )));
    let read = Sample::from_json(&written).unwrap();
    assert_eq!(read.to_json().unwrap(), written);
    let as_text = written.replace(r#"[{"name":"get"}]"#, r#""[{\"name\":\"get\"}]""#);
    assert_eq!(Sample::from_json(&as_text).unwrap().tools, sample.tools);
    // A table of samples holds the tools as text, and has no column for the fields of turns.
    let mut tables = SampleBatches::new(std::iter::once(Ok(sample)));
    let error = tables.next().unwrap().unwrap_err().to_string();
    assert!(error.starts_with("record 3: turn 1 has `name`, for which a table"), "{error}");
    let json = json.replace(r#","name":"Ada""#, "");
    let sample = convert(&json, &ConvertOptions::new(Format::Pairs)).unwrap();
    let batch = SampleBatches::new(std::iter::once(Ok(sample))).next().unwrap().unwrap();
    let rows = crate::record::rows_to_json(&batch).unwrap();
    assert!(rows[0].contains(r#""tools":"[{\"name\":\"get\"}]""#), "{rows:?}");
}

#[test]
fn the_reasoning_of_the_best_and_worst_answers_stays_with_them() {
    let rated = rated("s", &[&[("x", "2")], &[("x", "3")], &[("x", "1")]]);
    let json = rated.replace(r#""response":"r1""#, r#""response":"r1","reasoning_content":"why""#);
    let sample = convert(&json, &options()).unwrap();
    assert_eq!(serde_json::json!(sample.response_extras), serde_json::json!([{}, {"reasoning_content": "why"}, {}]));
    let read = Sample::from_json(&sample.to_json().unwrap()).unwrap();
    assert_eq!(read.response_extras, sample.response_extras);
    let best = convert(&json, &ConvertOptions { best_worst_pairs: true, ..options() }).unwrap();
    assert_eq!(best.responses, ["r1", "r2"]);
    assert_eq!(serde_json::json!(best.response_extras), serde_json::json!([{"reasoning_content": "why"}, {}]));
    let short = r#"{"prompt":"q","responses":["a","b"],"response_extras":[{}],"dimensions":[],"pi_target":[]}"#;
    assert!(
        Sample::from_json(short).unwrap_err().to_string().contains("`response_extras` has 1 objects for 2 responses")
    );
}

fn ranked(rankings: &str) -> String {
    format!(r#"{{"source":"s","prompt":"q","responses":["r0","r1","r2"],"rankings":{rankings}}}"#)
}

fn rankings() -> ConvertOptions {
    ConvertOptions::new(Format::Rankings)
}

#[test]
fn rankings_convert_like_the_ratings_that_they_stand_for() {
    let cases = [
        (ranked(r#"{"b":[1,2,2],"a":[2,null,1]}"#), [("2", "1"), ("1", "null"), ("1", "2")]),
        (ranked(r#"{"b":[3,1,2],"a":null}"#), [("1", "null"), ("3", "null"), ("2", "null")]),
    ];
    for (json, ratings) in cases {
        let responses = ratings.map(|(b, a)| [("b", b), ("a", a)]);
        let rated = rated("s", &responses.each_ref().map(|ratings| &ratings[..]));
        let same = |change: &dyn Fn(ConvertOptions) -> ConvertOptions| {
            let written =
                |json: &str, options: ConvertOptions| convert(json, &change(options)).unwrap().to_json().unwrap();
            assert_eq!(written(&json, rankings()), written(&rated, options()));
        };
        same(&|options| options);
        same(&|options| ConvertOptions { temperature: 0.3, ..options });
        same(&|options| ConvertOptions { missing_rating: MissingRating::Value(1.0), ..options });
        same(&|options| ConvertOptions { dimensions: Some(vec!["b".into(), "c".into()]), ..options });
    }
}

#[test]
fn dimensions_and_counts_of_rankings_are_those_of_ratings() {
    let lines = [
        ranked(r#"{"b":[1,2,2],"a":[2,null,1]}"#),
        ranked(r#"{"b":[1,null,null]}"#),
        r#"{"source":"truthful_qa","prompt":"q","responses":["a","b"],"rankings":{"z":[1,2]}}"#.to_owned(),
        r#"{"prompt":"q","responses":["a"],"rankings":{"b":[1]}}"#.to_owned(),
        r#"{"prompt":"q","responses":["a","b"],"rankings":{"b":[1,NaN]},"id":1}"#.to_owned(),
    ];
    let options = ConvertOptions { exclude_sources: vec!["truthful_qa".into()], ..rankings() };
    let (samples, reader) = read(&lines, options);
    let sample = samples[0].as_ref().unwrap();
    assert_eq!((samples.len(), reader.dimensions()), (1, &["a".to_owned(), "b".to_owned()][..]));
    assert_close(&sample.ratings, &[&[1.0, f64::NAN, 2.0], &[2.0, 1.0, 1.0]]);
    let report = reader.report();
    assert_eq!(
        report.skipped,
        [("excluded_source".into(), 1), ("fewer_than_two_responses".into(), 1), ("no_rated_dimension".into(), 2)]
            .into()
    );
    let missing: Vec<_> = report.missing_ratings.iter().map(|(kind, missing)| (kind.as_ref(), missing.count)).collect();
    assert_eq!(missing, [("absent", 6), ("nan", 1), ("null", 3)]);
    assert_eq!(report.ignored_fields["id"], 1);

    let (samples, _) = read(&lines[..1], ConvertOptions { dimensions: Some(vec!["c".into()]), ..rankings() });
    assert_eq!(
        samples.last().unwrap().as_ref().unwrap_err(),
        "no record rates the dimension `c`; dimensions in the records: a, b"
    );
    let (samples, _) = read(&[ranked(r#"{"b":[1,3,4]}"#)], rankings());
    let error = samples[0].as_ref().unwrap_err();
    assert!(error.starts_with("x.jsonl, line 1: `rankings.b` has rank 3 but no rank 2: number the places"), "{error}");
}

#[test]
fn the_best_and_worst_of_a_ranking_make_a_pair() {
    let options = ConvertOptions { best_worst_pairs: true, ..rankings() };
    let sample = convert(&ranked(r#"{"b":[2,1,3],"a":[1,1,2]}"#), &options).unwrap();
    assert_eq!(
        (sample.responses.as_slice(), sample.dimensions.as_slice()),
        (&["r1".to_owned(), "r2".to_owned()][..], &[PREFERENCE.to_owned()][..])
    );
    assert_close(&sample.ratings, &[&[2.5, 1.0]]);
    assert!(convert(&ranked(r#"{"b":[1,1,1]}"#), &options).is_none());
}
