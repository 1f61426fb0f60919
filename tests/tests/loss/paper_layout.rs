//! The expanded layout with `missing_rating = 1.0`, compared with an implementation of the paper's converter, processor
//! and collator from their description: 16 rows for each prompt, their order, labels, padding and targets.
//!
//! One difference is intended: the paper drops records that do not have exactly four responses; here N is free.

use lambda_dpo_core::convert::convert_record;
use lambda_dpo_core::{
    Batch, CollateOptions, ConvertOptions, Format, IGNORE_INDEX, Layout, MissingRating, TokenizeOptions, Tokenizer,
    collate,
};
use lambda_dpo_tests::batches::integers;
use lambda_dpo_tests::fixture;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const DIMENSIONS: [&str; 4] = ["helpfulness", "honesty", "instruction_following", "truthfulness"];
const PAD: i64 = 1;

/// The words of `fixtures/words` with their ids, read without the tokenizer.
fn vocabulary() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixture("words/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&text).unwrap();
    tokenizer["model"]["vocab"].as_object().unwrap().clone()
}

/// A rating as a record may hold it (None: no such key), and its value in the paper.
fn rating() -> impl Strategy<Value = (Option<Value>, f64)> {
    let number = (1..=5_i32).prop_map(|value| (Some(json!(value.to_string())), f64::from(value)));
    let missing = select(vec![Some(json!("N/A")), Some(json!("")), Some(Value::Null), Some(json!("good")), None]);
    prop_oneof![3 => number, 1 => missing.prop_map(|value| (value, 1.0))]
}

fn words(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(vec!["blue", "it", "is", "red", "one", "two", "hi", "plum"]), 1..=most)
}

/// A prompt and four responses, each with its four ratings.
type Drawn = (Vec<&'static str>, Vec<(Vec<&'static str>, Vec<(Option<Value>, f64)>)>);

fn drawn() -> impl Strategy<Value = Drawn> {
    (words(6), prop::collection::vec((words(9), prop::collection::vec(rating(), 4)), 4))
}

fn to_json((prompt, responses): &Drawn) -> String {
    let completion = |(text, ratings): &(Vec<&str>, Vec<(Option<Value>, f64)>)| {
        let annotation = |(name, (rating, _)): (&&str, &(Option<Value>, f64))| {
            let entry = rating.as_ref().map_or_else(|| json!({}), |rating| json!({ "Rating": rating }));
            ((*name).to_owned(), entry)
        };
        let annotations: serde_json::Map<String, Value> = DIMENSIONS.iter().zip(ratings).map(annotation).collect();
        json!({ "response": text.join(" "), "annotations": annotations })
    };
    let completions: Vec<Value> = responses.iter().map(completion).collect();
    json!({ "instruction": prompt.join(" "), "completions": completions }).to_string()
}

/// The batch that the paper's collator makes of some prompts.
struct Expected {
    width: usize,
    input_ids: Vec<i64>,
    attention_mask: Vec<i64>,
    labels: Vec<i64>,
    pi_target: Vec<f64>,
}

fn expected(prompts: &[Drawn]) -> Expected {
    let vocabulary = vocabulary();
    let ids = |words: &[&str]| -> Vec<i64> { words.iter().map(|word| vocabulary[*word].as_i64().unwrap()).collect() };
    let mut rows: Vec<(Vec<i64>, Vec<i64>)> = Vec::new();
    let mut pi_target = Vec::new();
    for (prompt, responses) in prompts {
        let before = ids(&[&["<user>"], &prompt[..], &["<end>", "<assistant>"]].concat());
        for k in 0..DIMENSIONS.len() {
            let weights: Vec<f64> = responses.iter().map(|(_, ratings)| ratings[k].1.exp()).collect();
            let sum: f64 = weights.iter().sum();
            for ((text, _), weight) in responses.iter().zip(weights) {
                rows.push((before.clone(), ids(&[&text[..], &["<end>"]].concat())));
                pi_target.push(weight / sum);
            }
        }
    }
    let longest = rows.iter().map(|(prompt, response)| prompt.len() + response.len()).max().unwrap();
    let width = longest.div_ceil(8) * 8;
    let mut result =
        Expected { width, input_ids: Vec::new(), attention_mask: Vec::new(), labels: Vec::new(), pi_target };
    for (prompt, response) in rows {
        let used = prompt.len() + response.len();
        result.attention_mask.extend(std::iter::repeat_n(1, used).chain(std::iter::repeat_n(0, width - used)));
        result.input_ids.extend(prompt.iter().chain(&response));
        result.input_ids.extend(std::iter::repeat_n(PAD, width - used));
        result.labels.extend(std::iter::repeat_n(IGNORE_INDEX, prompt.len()));
        result.labels.extend(&response);
        result.labels.extend(std::iter::repeat_n(IGNORE_INDEX, width - used));
    }
    result
}

fn collated(prompts: &[Drawn]) -> Batch {
    let tokenizer = Tokenizer::open(&fixture("words"), None).unwrap();
    let options = ConvertOptions {
        dimensions: Some(DIMENSIONS.map(str::to_owned).to_vec()),
        missing_rating: MissingRating::Value(1.0),
        ..ConvertOptions::new(Format::UltraFeedback)
    };
    let samples: Vec<_> = prompts
        .iter()
        .enumerate()
        .flat_map(|(i, prompt)| {
            let sample = convert_record(&to_json(prompt), i as u64, &options).unwrap().unwrap();
            tokenizer.tokenize(&sample, &TokenizeOptions::default()).unwrap().samples
        })
        .collect();
    let options =
        CollateOptions { layout: Layout::Expanded, max_tokens: None, pad_to_multiple_of: 8, pad_token_id: PAD };
    collate(&samples.iter().collect::<Vec<_>>(), &vec![0.25; 4 * samples.len()], &options).unwrap()
}

/// π row by row, like the paper's flat `pi_target`; `sequence_index` maps dimension and response to a row.
fn flat_targets(batch: &Batch) -> Vec<f64> {
    let pi = Vec::<f32>::try_from(batch.pi_target.reshape([-1])).unwrap();
    let mut flat = vec![f64::NAN; pi.len()];
    for (row, value) in integers(&batch.sequence_index).into_iter().zip(pi) {
        let cell = &mut flat[row as usize];
        assert!(cell.is_nan(), "row {row} is assigned to two dimensions or responses");
        *cell = f64::from(value);
    }
    flat
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn expanded_rows_are_the_papers(prompts in prop::collection::vec(drawn(), 1..4)) {
        let (batch, expected) = (collated(&prompts), expected(&prompts));
        let num_rows = 16 * prompts.len();
        prop_assert_eq!(batch.input_ids.size(), [num_rows as i64, expected.width as i64]);
        prop_assert_eq!(integers(&batch.input_ids), expected.input_ids);
        prop_assert_eq!(integers(&batch.attention_mask), expected.attention_mask);
        // logits[:, :-1] predict labels[:, 1:].
        let labelled = expected.labels.iter().enumerate().filter(|(_, label)| **label != IGNORE_INDEX);
        let (positions, ids): (Vec<i64>, Vec<i64>) = labelled.map(|(at, label)| (at as i64 - 1, *label)).unzip();
        prop_assert_eq!(integers(&batch.target_positions), positions);
        prop_assert_eq!(integers(&batch.target_ids), ids);
        prop_assert_eq!(integers(&batch.labels), expected.labels);
        let found = flat_targets(&batch);
        for (found, expected) in found.iter().zip(&expected.pi_target) {
            prop_assert!((found - expected).abs() <= 1e-7, "{} for {}", found, expected);
        }
        for group in found.chunks(4) {
            prop_assert!((group.iter().sum::<f64>() - 1.0).abs() <= 2e-7);
        }
    }
}

/// Without any rating the targets are uniform, and a record without completions gives no sample.
#[test]
fn targets_without_ratings_are_uniform_and_no_completions_give_no_sample() {
    let unrated = vec![(vec!["hi"], vec![(None, 1.0); 4]); 4];
    let batch = collated(&[(vec!["one"], unrated)]);
    assert_eq!(flat_targets(&batch), [0.25; 16]);
    let options =
        ConvertOptions { missing_rating: MissingRating::Value(1.0), ..ConvertOptions::new(Format::UltraFeedback) };
    let sample = convert_record(r#"{"instruction": "hi", "completions": []}"#, 0, &options).unwrap();
    assert!(sample.is_none());
}
