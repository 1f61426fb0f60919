//! Records with rankings: what they stand for, and what is refused.

use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use serde_json::{Value, json};

use super::{messages, problem};
use crate::Format;
use crate::record::{Body, Prompt, Rating, Record, rows_to_json};

fn record(fields: &Value) -> String {
    let mut record = json!({"prompt": "x", "responses": ["a", "b", "c", "d"], "rankings": {"h": [1, 2, 3, 4]}});
    record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    record.to_string()
}

fn parsed(json: &str) -> Record {
    Record::parse(json, Format::Rankings, 0).unwrap()
}

/// The ratings that the ranks of four responses stand for.
fn ratings(ranks: &Value) -> Vec<Rating> {
    match parsed(&record(&json!({"rankings": {"h": ranks}}))).body {
        Body::Rated(completions) => completions.into_iter().map(|mut c| c.ratings.swap_remove("h").unwrap()).collect(),
        body => panic!("{body:?}"),
    }
}

fn refused(fields: &Value) -> String {
    problem(&record(fields), Format::Rankings)
}

#[test]
fn ranks_are_ratings_one_point_apart() {
    assert_eq!(ratings(&json!([1, 2, 3, 4])), [4.0, 3.0, 2.0, 1.0].map(Rating::Value));
    assert_eq!(ratings(&json!([2, 1, 2, 3])), [2.0, 3.0, 2.0, 1.0].map(Rating::Value));
    assert_eq!(ratings(&json!([1, 1, 1, 1])), [1.0; 4].map(Rating::Value));
}

#[test]
fn a_missing_rank_is_a_missing_rating_and_no_gap() {
    let ranks = r#"{"prompt":"x","responses":["a","b","c","d"],"rankings":{"h":[null,2,NaN,1],"i":null,"j":["N/A","1","np.int64(2)",2.0]}}"#;
    let Body::Rated(completions) = parsed(ranks).body else { panic!() };
    let of = |name: &str| completions.iter().map(|completion| completion.ratings[name].clone()).collect::<Vec<_>>();
    assert_eq!(
        of("h"),
        [Rating::Missing("null"), Rating::Value(1.0), Rating::Missing("nan"), Rating::Value(2.0)],
        "with two places, the ratings are 2 and 1"
    );
    assert_eq!(of("i"), [const { Rating::Missing("null") }; 4]);
    assert_eq!(of("j"), [Rating::Missing("N/A"), Rating::Value(2.0), Rating::Value(1.0), Rating::Value(1.0)]);
}

#[test]
fn responses_and_prompts_come_as_in_pairs() {
    let extras = json!({"reasoning_content": "why"});
    let answer = json!({"role": "assistant", "content": "b", "reasoning_content": "why"});
    let user = json!({"role": "user", "content": "x"});
    let whole = |text: &str| json!([user, {"role": "assistant", "content": text}]);
    let cases = [
        (json!({"responses": ["a", answer], "system": "s"}), messages(&[("system", "s"), ("user", "x")]), true),
        (json!({"responses": ["a", [answer]], "prompt": [user]}), messages(&[("user", "x")]), true),
        (json!({"responses": [whole("a"), whole("b")], "prompt": null}), messages(&[("user", "x")]), false),
        (
            json!({"responses": ["a", "b"], "prompt": null, "conversations": [{"from": "human", "value": "x"}]}),
            messages(&[("user", "x")]),
            false,
        ),
    ];
    for (mut fields, prompt, has_extras) in cases {
        fields["rankings"] = json!({"h": [2, 1]});
        let found = parsed(&record(&fields));
        assert_eq!(found.prompt, prompt, "{fields}");
        let Body::Rated(completions) = found.body else { panic!() };
        let texts: Vec<&str> = completions.iter().map(|completion| completion.response.as_str()).collect();
        assert_eq!((texts, completions[1].ratings["h"].clone()), (vec!["a", "b"], Rating::Value(2.0)), "{fields}");
        let expected = if has_extras { vec![json!({}), extras.clone()] } else { Vec::new() };
        assert_eq!(json!(found.response_extras), json!(expected), "{fields}");
    }
    let tools = json!([{"name": "get"}]);
    let found = parsed(&record(&json!({"tools": tools, "source": "s", "id": 3})));
    assert_eq!((found.tools, found.source.as_deref()), (Some(tools), Some("s")));
    assert_eq!(
        (found.prompt, found.ignored.into_iter().collect::<Vec<_>>()),
        (Prompt::Text("x".into()), vec!["id".to_owned()])
    );
}

#[test]
fn rankings_that_make_no_sense_are_refused_in_one_sentence() {
    let way_out = "number the places without gaps; equal ranks tie, and the next one is one more (1, 2, 2, 3)";
    let rank = "a rank is a whole number from 1 (the best) on, and a missing one null";
    let object = "expected an object with a list of ranks for each dimension (empty if nothing is ranked)";
    let list = "expected a list with a text or a message for each answer";
    let h = |ranks: Value| json!({"rankings": {"h": ranks}});
    let cases = [
        (h(json!([1, 3, 4, 5])), format!("`rankings.h` has rank 3 but no rank 2: {way_out}")),
        (h(json!([1, 2, 2, 4])), format!("`rankings.h` has rank 4 but no rank 3: {way_out}")),
        (h(json!([2, null, 3, null])), format!("`rankings.h` has rank 2 but no rank 1: {way_out}")),
        (h(json!([0, 1, 2, 3])), format!("`rankings.h[0]` is 0: {rank}")),
        (h(json!([1, 2, -1, 3])), format!("`rankings.h[2]` is -1: {rank}")),
        (h(json!([1, 1.5, 2, 3])), format!("`rankings.h[1]` is 1.5: {rank}")),
        (h(json!([1, "2.5", 2, 3])), format!("`rankings.h[1]` is 2.5: {rank}")),
        (h(json!([1, "inf", 2, 3])), format!("`rankings.h[1]` is inf: {rank}")),
        (
            h(json!([1, 2, 3])),
            "`rankings.h` has 3 ranks for 4 responses: write null for a response without a rank".to_owned(),
        ),
        (
            h(json!(1)),
            "`rankings.h` is a number: expected a list with a rank (1 is best) or null for each response".to_owned(),
        ),
        (json!({"rankings": null}), format!("`rankings` is null: {object}")),
        (json!({"rankings": [1, 2, 3, 4]}), format!("`rankings` is a list: {object}")),
        (json!({"responses": []}), format!("`responses` is empty: {list}")),
        (json!({"responses": "a"}), format!("`responses` is text: {list}")),
        (
            json!({"responses": ["a", null, "c", "d"]}),
            "`responses[1]` is null: expected text, a message, or a list of {role, content} objects".to_owned(),
        ),
        (
            json!({"responses": ["a", {"role": "user", "content": "b"}, "c", "d"]}),
            "`responses[1]` ends with a \"user\" turn: expected an assistant turn".to_owned(),
        ),
        (
            json!({"responses": ["a", [{"role": "user", "content": "y"}, {"role": "assistant", "content": "b"}], "c", "d"]}),
            "`responses[0]` and `responses[1]` differ before their last turn: expected conversations that share every turn \
             but the last"
                .to_owned(),
        ),
        (json!({"prompt": null}), "`prompt` is null: expected text or a list of {role, content} objects".to_owned()),
        (json!({"images": ["a.png"]}), "`images` is not supported; only text is trained on: leave such records out, or remove the field".to_owned()),
    ];
    for (fields, expected) in cases {
        assert_eq!(refused(&fields), expected, "{fields}");
    }
    let without = r#"{"prompt":"x","responses":["a","b"]}"#;
    assert_eq!(problem(without, Format::Rankings), format!("`rankings` is missing: {object}"));
    assert!(refused(&json!({"rankings": {"h": [1, f64::MAX, 2, 3]}})).contains("but no rank 4: "));
}

#[test]
fn a_record_of_another_format_is_named() {
    let ranked = record(&json!({}));
    assert!(
        problem(&ranked, Format::UltraFeedback).ends_with("; the record has `rankings`: set the format to `rankings`")
    );
    assert!(problem(&ranked, Format::Pairs).ends_with("; the record has `rankings`: set the format to `rankings`"));
    let rated = r#"{"instruction":"x","completions":[]}"#;
    assert!(
        problem(rated, Format::Rankings).ends_with("; the record has `completions`: set the format to `ultrafeedback`")
    );
    // Only what is no record of the named format is taken for one of another.
    let both = r#"{"prompt":"x","responses":["a"],"rankings":{"h":[2]},"completions":[]}"#;
    assert!(problem(both, Format::Rankings).starts_with("`rankings.h` has rank 2 but no rank 1"));
}

#[test]
fn a_map_of_a_table_is_read_like_an_object() {
    let mut prompts = StringBuilder::new();
    let mut responses = ListBuilder::new(StringBuilder::new());
    let mut rankings = MapBuilder::new(None, StringBuilder::new(), ListBuilder::new(Int64Builder::new()));
    prompts.append_value("x");
    for text in ["a", "b"] {
        responses.values().append_value(text);
    }
    responses.append(true);
    rankings.keys().append_value("h");
    rankings.values().values().append_value(2);
    rankings.values().values().append_value(1);
    rankings.values().append(true);
    rankings.keys().append_value("i");
    rankings.values().append(false);
    rankings.append(true).unwrap();
    let columns: [(&str, ArrayRef); 3] = [
        ("prompt", Arc::new(prompts.finish())),
        ("responses", Arc::new(responses.finish())),
        ("rankings", Arc::new(rankings.finish())),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let rows = rows_to_json(&batch).unwrap();
    let Body::Rated(completions) = parsed(&rows[0]).body else { panic!() };
    assert_eq!(completions[1].ratings["h"], Rating::Value(2.0));
    assert_eq!(completions[1].ratings["i"], Rating::Missing("null"));
}
