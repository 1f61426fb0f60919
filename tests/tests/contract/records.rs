//! Random records as JSON: valid ones, ones with every kind of rating, and invalid ones.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

const DIMENSIONS: [&str; 3] = ["helpfulness", "honesty", "λ"];

/// Words of `fixtures/words`, unknown words, and text that JSON must escape.
pub fn text() -> impl Strategy<Value = String> {
    let word = select(vec!["blue", "it", "is", "one", "two", "grün", "\"quoted\"", "\\", "🎈", "\u{1}", "<end>", ""]);
    prop::collection::vec(word, 0..6).prop_map(|words| words.join(" "))
}

fn rating() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (1..=5).prop_map(|value: i32| json!(value.to_string())),
        2 => (0.0..10.0).prop_map(|value: f64| json!(value)),
        1 => select(vec![json!("N/A"), json!(""), json!(null), json!("nan"), json!("inf"), json!("good"), json!(true)]),
    ]
}

fn annotations() -> impl Strategy<Value = Value> {
    let by_name = || {
        prop::collection::vec(prop::option::weighted(0.8, rating()), DIMENSIONS.len()).prop_map(|ratings| {
            let rated = DIMENSIONS.iter().zip(ratings);
            let entries: Map<String, Value> =
                rated.filter_map(|(name, rating)| Some(((*name).to_owned(), json!({ "Rating": rating? })))).collect();
            Value::Object(entries)
        })
    };
    let named = by_name().prop_map(|by_name| {
        let entry = |(name, rated): (&String, &Value)| json!({ "Type": name, "Rating": rated["Rating"] });
        Value::Array(by_name.as_object().unwrap().iter().map(entry).collect())
    });
    prop_oneof![8 => by_name(), 2 => named, 1 => Just(Value::Null)]
}

/// A record with rated completions, N ≥ 0.
pub fn rated() -> impl Strategy<Value = Value> {
    let completion = (text(), annotations())
        .prop_map(|(response, annotations)| json!({ "response": response, "annotations": annotations }));
    let source = prop::option::of(select(vec!["truthful_qa", "sharegpt"]));
    (text(), prop::collection::vec(completion, 0..5), source).prop_map(|(instruction, completions, source)| {
        json!({ "source": source, "instruction": instruction, "completions": completions })
    })
}

/// A record with ranked responses, N ≥ 0; some ranks are not valid.
fn ranked() -> impl Strategy<Value = Value> {
    let rank = prop_oneof![
        6 => (1..4).prop_map(|rank: i32| json!(rank)),
        2 => select(vec![json!(null), json!("N/A"), json!("2"), json!(1.0), json!(1.5), json!(0)]),
    ];
    let responses = prop::collection::vec((text(), prop::collection::vec(rank, DIMENSIONS.len())), 0..4);
    (text(), responses).prop_map(|(prompt, responses)| {
        let texts: Vec<&String> = responses.iter().map(|(text, _)| text).collect();
        let ranks = |k: usize| responses.iter().map(|(_, ranks)| ranks[k].clone()).collect::<Vec<_>>();
        let rankings: Map<String, Value> =
            DIMENSIONS.iter().enumerate().map(|(k, name)| ((*name).to_owned(), json!(ranks(k)))).collect();
        json!({ "prompt": prompt, "responses": texts, "rankings": rankings })
    })
}

fn turns() -> impl Strategy<Value = Value> {
    prop::collection::vec((any::<bool>(), text()), 1..4).prop_map(|turns| {
        let turn = |(answer, content): (bool, String)| json!({ "role": if answer { "assistant" } else { "user" }, "content": content });
        Value::Array(turns.into_iter().map(turn).collect())
    })
}

/// A record of any format as text; some have a field of the wrong type or are cut short.
pub fn any_record() -> impl Strategy<Value = String> {
    let pair = (text(), text(), text())
        .prop_map(|(prompt, chosen, rejected)| json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected }));
    let chat = turns().prop_map(|messages| json!({ "messages": messages }));
    let wrong = (rated(), select(vec!["instruction", "completions"]), select(vec![json!(3), json!([7]), json!({})]))
        .prop_map(|(mut record, field, value)| {
            record[field] = value;
            record
        });
    let whole = prop_oneof![6 => rated(), 2 => ranked(), 2 => pair, 2 => chat, 2 => wrong]
        .prop_map(|record| record.to_string());
    (whole, prop::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(|(json, cut)| match cut {
        Some(cut) => json[..json.floor_char_boundary(cut.index(json.len()))].to_owned(),
        None => json,
    })
}

/// A prompt with two to four rated responses that can all be used.
pub fn usable() -> impl Strategy<Value = Value> {
    let words = || prop::collection::vec(select(vec!["blue", "it", "is", "one", "two", "plum"]), 1..8);
    let ratings = || prop::collection::vec(1..=5, DIMENSIONS.len());
    let completion = (words(), ratings()).prop_map(|(words, ratings): (Vec<&str>, Vec<i32>)| {
        let entry = |(name, rating): (&&str, i32)| ((*name).to_owned(), json!({ "Rating": rating.to_string() }));
        let annotations: Map<String, Value> = DIMENSIONS.iter().zip(ratings).map(entry).collect();
        json!({ "response": words.join(" "), "annotations": annotations })
    });
    (words(), prop::collection::vec(completion, 2..5))
        .prop_map(|(prompt, completions)| json!({ "instruction": prompt.join(" "), "completions": completions }))
}

/// Like [`usable`], but with responses and ratings missing; each field still has one Arrow type.
pub fn textual() -> impl Strategy<Value = Value> {
    let rating = || prop_oneof![3 => (1..=5).prop_map(|value: i32| json!(value.to_string())), 1 => select(vec![json!("N/A"), json!(null)])];
    let completion = (text(), prop::collection::vec(rating(), DIMENSIONS.len())).prop_map(|(text, ratings)| {
        let entry = |(name, rating): (&&str, Value)| ((*name).to_owned(), json!({ "Rating": rating }));
        let annotations: Map<String, Value> = DIMENSIONS.iter().zip(ratings).map(entry).collect();
        json!({ "response": text, "annotations": annotations })
    });
    let source = prop::option::of(select(vec!["truthful_qa", "sharegpt"]));
    (text(), prop::collection::vec(completion, 0..4), source).prop_map(|(instruction, completions, source)| {
        json!({ "source": source, "instruction": instruction, "completions": completions })
    })
}
