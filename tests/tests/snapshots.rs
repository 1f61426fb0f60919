//! Every field of every layout, from records to batches, as tables that a person can check by eye.
//!
//! After an intended change run `INSTA_UPDATE=always cargo test --workspace --test snapshots` and read the difference.

#![expect(clippy::unwrap_used, reason = "tests")]

use lambda_dpo_core::convert::convert_record;
use lambda_dpo_core::{
    CollateOptions, ConvertOptions, Format, Layout, MissingRating, SampleReader, TokenizeOptions, TokenizedSample,
    Tokenizer, collate,
};
use lambda_dpo_tests::{batch_table, fixture};
use serde_json::{Value, json};

const LAYOUTS: [Layout; 3] = [Layout::Packed, Layout::Rows, Layout::Expanded];

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixture("words"), None).unwrap()
}

/// A record with responses and the ratings of each by dimension (`d0`, `d1`, …).
fn record(prompt: &str, responses: &[(&str, &[Value])]) -> Value {
    let completion = |(text, ratings): &(&str, &[Value])| {
        let annotations: serde_json::Map<String, Value> =
            ratings.iter().enumerate().map(|(k, rating)| (format!("d{k}"), json!({ "Rating": rating }))).collect();
        json!({ "response": text, "annotations": annotations })
    };
    json!({ "instruction": prompt, "completions": responses.iter().map(completion).collect::<Vec<_>>() })
}

/// Records, and the options that turn them into a batch.
struct Case<'a> {
    records: &'a [Value],
    missing_rating: MissingRating,
    cutoff_len: Option<usize>,
    max_tokens: Option<usize>,
    /// λ of each prompt; None is uniform.
    lambda: Option<&'a [f64]>,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self { records: &[], missing_rating: MissingRating::Mask, cutoff_len: None, max_tokens: None, lambda: None }
    }
}

impl Case<'_> {
    /// Record i has index 10 + i, which tells it from its position in the batch.
    fn samples(&self, tokenizer: &Tokenizer) -> Vec<TokenizedSample> {
        let options =
            ConvertOptions { missing_rating: self.missing_rating, ..ConvertOptions::new(Format::UltraFeedback) };
        let tokenize = TokenizeOptions { cutoff_len: self.cutoff_len, keep_all: false };
        let sample = |(i, record): (usize, &Value)| {
            let sample = convert_record(&record.to_string(), 10 + i as u64, &options).unwrap().unwrap();
            tokenizer.tokenize(&sample, &tokenize).unwrap().samples
        };
        self.records.iter().enumerate().flat_map(sample).collect()
    }

    fn render(&self, layout: Layout) -> String {
        let tokenizer = tokenizer();
        self.render_samples(&self.samples(&tokenizer), layout, &tokenizer)
    }

    fn render_samples(&self, samples: &[TokenizedSample], layout: Layout, tokenizer: &Tokenizer) -> String {
        let m = samples[0].pi_target.nrows();
        let uniform = vec![1.0 / m as f64; m * samples.len()];
        let options = CollateOptions { layout, max_tokens: self.max_tokens, pad_to_multiple_of: 8, pad_token_id: 1 };
        let samples: Vec<_> = samples.iter().collect();
        let batch = collate(&samples, self.lambda.unwrap_or(&uniform), &options).unwrap();
        batch_table::render(&batch, layout, tokenizer)
    }
}

/// Compares a case in each layout with its snapshot, `<case>_<layout>`.
fn snapshot(case: &Case, name: &str, layouts: &[Layout]) {
    for layout in layouts {
        let name = format!("{name}_{}", format!("{layout:?}").to_lowercase());
        insta::assert_snapshot!(name, case.render(*layout));
    }
}

/// The paper's shape: four responses rated in four dimensions.
fn four_by_four() -> Value {
    record(
        "name a colour",
        &[
            ("blue", &[json!("5"), json!("1"), json!("3"), json!("2")]),
            ("grey", &[json!("4"), json!("2"), json!("3"), json!("5")]),
            ("it is red", &[json!("3"), json!("3"), json!("3"), json!("1")]),
            ("red , mostly", &[json!("1"), json!("5"), json!("3"), json!("4")]),
        ],
    )
}

/// Records with three and two responses, rated in two dimensions.
fn ragged() -> [Value; 2] {
    [
        record(
            "hi",
            &[("hello", &[json!(5), json!(1)]), ("hi", &[json!(3), json!(2)]), ("what is it", &[json!(1), json!(3)])],
        ),
        record("name a fruit", &[("apple or pear", &[json!(2), json!(4)]), ("plum", &[json!(4), json!(4)])]),
    ]
}

#[test]
fn four_responses_in_four_dimensions() {
    let lambda = [0.4, 0.3, 0.2, 0.1];
    snapshot(&Case { records: &[four_by_four()], lambda: Some(&lambda), ..Case::default() }, "4x4", &LAYOUTS);
}

#[test]
fn prompts_with_different_numbers_of_responses() {
    let lambda = [0.25, 0.75, 0.5, 0.5];
    snapshot(&Case { records: &ragged(), lambda: Some(&lambda), ..Case::default() }, "ragged", &LAYOUTS);
}

#[test]
fn five_dimensions() {
    let five = |first: i64| -> Vec<Value> { (0..5).map(|k| json!((first + k) % 5 + 1)).collect() };
    let records = [record("hi", &[("hello", &five(0)), ("hi", &five(3))])];
    snapshot(&Case { records: &records, ..Case::default() }, "five_dimensions", &LAYOUTS);
}

/// Three responses, of which dimension 0 rates all, 1 two, 2 one and 3 none.
fn with_missing_ratings() -> Value {
    record(
        "hi",
        &[
            ("hello", &[json!("5"), json!("4"), json!("N/A"), json!(null)]),
            ("hi", &[json!("4"), json!(""), json!("2"), json!("N/A")]),
            ("it is three", &[json!("2"), json!("3"), json!("nan"), json!("none")]),
        ],
    )
}

#[test]
fn missing_ratings_are_masked() {
    let lambda = [0.2, 0.3, 0.4, 0.1];
    let case = Case { records: &[with_missing_ratings()], lambda: Some(&lambda), ..Case::default() };
    snapshot(&case, "missing_masked", &LAYOUTS);
}

#[test]
fn missing_ratings_are_1_in_the_paper() {
    let lambda = [0.2, 0.3, 0.4, 0.1];
    let missing_rating = MissingRating::Value(1.0);
    let case = Case { records: &[with_missing_ratings()], missing_rating, lambda: Some(&lambda), ..Case::default() };
    snapshot(&case, "missing_as_in_the_paper", &[Layout::Packed, Layout::Expanded]);
}

/// With a cutoff of 10, of 12 prompt tokens the last 7 are kept, and of each response the first 3.
#[test]
fn truncation_at_the_cutoff() {
    let records = [record(
        "say hello to three or count the blue sky",
        &[("one two three one two three", &[json!(5)]), ("hi", &[json!(1)])],
    )];
    snapshot(&Case { records: &records, cutoff_len: Some(10), ..Case::default() }, "truncated", &LAYOUTS);
}

/// The second of three responses has no tokens; it keeps its column and its target, and its log-prob is 0.
#[test]
fn an_empty_response() {
    let case = Case { records: &ragged()[..1], ..Case::default() };
    let tokenizer = tokenizer();
    let mut samples = case.samples(&tokenizer);
    samples[0].responses[1].ids.clear();
    for layout in LAYOUTS {
        let name = format!("empty_response_{}", format!("{layout:?}").to_lowercase());
        insta::assert_snapshot!(name, case.render_samples(&samples, layout, &tokenizer));
    }
}

/// Rows of 8 tokens are not padded; rows of 9 are padded to 16, on the right.
#[test]
fn rows_end_at_a_multiple_of_8() {
    let aligned = record("hi", &[("it is red", &[json!(1)]), ("hello", &[json!(2)])]);
    let one_more = record("say hi", &[("it is red", &[json!(1)]), ("hello", &[json!(2)])]);
    snapshot(&Case { records: &[aligned], ..Case::default() }, "aligned", &[Layout::Rows]);
    snapshot(&Case { records: &[one_more], ..Case::default() }, "one_more_than_aligned", &[Layout::Rows]);
}

/// The records of `fixtures/rankings`, as `convert` writes them and as a batch; `tests/rankings.rs` compares them with
/// the ratings that they stand for.
#[test]
fn rankings() {
    let tokenizer = tokenizer();
    let options = ConvertOptions::new(Format::Rankings);
    let samples: Vec<_> = SampleReader::open(&[fixture("rankings/records.jsonl")], options)
        .unwrap()
        .map(|sample| sample.unwrap())
        .collect();
    let lines: Vec<String> = samples.iter().map(|sample| sample.to_json().unwrap()).collect();
    insta::assert_snapshot!("rankings_converted", lines.join("\n"));
    let tokenize = TokenizeOptions { cutoff_len: None, keep_all: false };
    let tokenized: Vec<_> =
        samples.iter().flat_map(|sample| tokenizer.tokenize(sample, &tokenize).unwrap().samples).collect();
    for layout in LAYOUTS {
        let name = format!("rankings_{}", format!("{layout:?}").to_lowercase());
        insta::assert_snapshot!(name, Case::default().render_samples(&tokenized, layout, &tokenizer));
    }
}

#[test]
fn several_prompts_share_a_packed_row() {
    let [three, two] = ragged();
    let third = record("hi", &[("one", &[json!(1), json!(2)]), ("two", &[json!(2), json!(2)])]);
    let records = [three, two, third];
    let case = Case { records: &records, max_tokens: Some(24), ..Case::default() };
    snapshot(&case, "shared_row", &[Layout::Packed]);
}
