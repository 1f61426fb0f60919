//! Every field that a person wrote is read, refused by name, or listed as without effect.

use serde_json::{Value, json};

use super::{messages, pair, problem, ratings};
use crate::Format;
use crate::record::fields::SYSTEM;
use crate::record::{Body, Message, Prompt, Rating, Record};

fn parsed(record: &Value, format: Format) -> Record {
    Record::parse(&record.to_string(), format, 0).unwrap()
}

fn refused(record: &Value, format: Format) -> String {
    problem(&record.to_string(), format)
}

fn ignored(record: &Value, format: Format) -> Vec<String> {
    parsed(record, format).ignored.into_iter().collect()
}

fn rated(fields: &Value) -> Value {
    let mut record =
        json!({"instruction": "x", "completions": [{"response": "a", "annotations": {"h": {"Rating": 1}}}]});
    record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    record
}

fn chat(turn: &Value) -> Value {
    json!({"messages": [{"role": "user", "content": "x"}, turn]})
}

fn last_turn(record: &Value) -> Message {
    match parsed(record, Format::Chat).prompt {
        Prompt::Messages(mut messages) => messages.pop().unwrap(),
        prompt => panic!("{prompt:?}"),
    }
}

#[test]
fn a_system_prompt_beside_the_prompt_becomes_its_first_turn() {
    let expected = messages(&[("system", "S"), ("user", "x")]);
    for name in SYSTEM {
        let text = pair(&json!({*name: "S", "prompt": "x", "chosen": "a", "rejected": "b"}).to_string());
        assert_eq!(text.0, expected, "{name}");
        assert_eq!(parsed(&rated(&json!({*name: "S"})), Format::UltraFeedback).prompt, expected, "{name}");
    }
    let turns = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]);
    let pair = json!({"system_prompt": "S", "chosen": turns, "rejected": turns});
    assert_eq!(parsed(&pair, Format::Pairs).prompt, expected);
    let chat = json!({"system_message": "S", "messages": turns});
    assert_eq!(parsed(&chat, Format::Chat).prompt, messages(&[("system", "S"), ("user", "x"), ("assistant", "a")]));
    for empty in [json!(""), Value::Null] {
        assert_eq!(parsed(&rated(&json!({"system": empty})), Format::UltraFeedback).prompt, Prompt::Text("x".into()));
    }
}

#[test]
fn two_system_prompts_are_one_or_refused() {
    let system = json!([{"role": "system", "content": "S"}, {"role": "user", "content": "x"}]);
    let same = json!({"system": "S", "system_prompt": "S", "prompt": system, "chosen": "a", "rejected": "b"});
    assert_eq!(parsed(&same, Format::Pairs).prompt, messages(&[("system", "S"), ("user", "x")]));
    let other = json!({"system": "T", "prompt": system, "chosen": "a", "rejected": "b"});
    assert_eq!(
        refused(&other, Format::Pairs),
        "`system` differs from the system turn that the conversation starts with: keep one"
    );
    let two = rated(&json!({"system": "S", "sys_prompt": "T"}));
    assert_eq!(
        refused(&two, Format::UltraFeedback),
        "`system` and `sys_prompt` are different system prompts: keep one of them"
    );
    let list = rated(&json!({"system": ["S"]}));
    assert_eq!(refused(&list, Format::UltraFeedback), "`system` is a list: expected the text of the system prompt");
}

#[test]
fn tools_are_a_list_or_its_json() {
    let tool = json!({"name": "get", "parameters": {}});
    let text = tool.to_string();
    let list = json!([tool.clone()]);
    for tools in [list.clone(), json!(list.to_string()), json!([text])] {
        for record in
            [rated(&json!({"tools": tools})), json!({"tools": tools, "messages": [{"role": "user", "content": "x"}]})]
        {
            let format = if record.get("messages").is_some() { Format::Chat } else { Format::UltraFeedback };
            assert_eq!(parsed(&record, format).tools, Some(list.clone()), "{tools}");
        }
    }
    for none in [json!(""), json!([]), json!("[]"), json!("null"), Value::Null] {
        assert_eq!(parsed(&rated(&json!({"tools": none})), Format::UltraFeedback).tools, None, "{none}");
    }
    for (tools, expected) in [
        (json!("get(x)"), "`tools` is text that is not valid JSON ("),
        (json!({"name": "get"}), "`tools` is an object: expected a list of tools, or its JSON as text"),
        (json!([1]), "`tools[0]` is a number: expected an object that describes a tool"),
    ] {
        let problem = refused(&rated(&json!({"tools": tools})), Format::UltraFeedback);
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn the_other_fields_of_a_turn_are_kept_for_the_template() {
    let calls = json!([{"function": {"name": "get", "arguments": {"a": null}}}]);
    let turn = last_turn(&chat(&json!({"role": "assistant", "content": null, "tool_calls": calls, "name": null})));
    assert_eq!((turn.content, Value::Object(turn.extras)), (None, json!({"tool_calls": calls})));
    let turn = json!({"from": "gpt", "value": "y", "role": null, "content": null, "reasoning_content": "r"});
    let turn = last_turn(&json!({"conversations": [{"from": "human", "value": "x"}, turn]}));
    assert_eq!((turn.content.as_deref(), Value::Object(turn.extras)), (Some("y"), json!({"reasoning_content": "r"})));

    // As in the old format of function calls; without a call, null is no text.
    last_turn(&chat(&json!({"role": "assistant", "content": null, "function_call": {"name": "f", "arguments": "{}"}})));
    let empty = chat(&json!({"role": "assistant", "content": null, "tool_calls": []}));
    assert_eq!(refused(&empty, Format::Chat), "`messages[1].content` is null: expected text");
    let called = json!({"conversations": [{"from": "function_call", "value": "{}"}]});
    assert!(refused(&called, Format::Chat).contains("tool_calls: [{type: function, function: {name, arguments}}]"));
    let both = json!({"conversations": [{"from": "gpt", "value": "y", "content": "z"}]});
    assert_eq!(
        refused(&both, Format::Chat),
        "`conversations[0]` has both `from` and `content`: expected {role, content}, or {from, value}"
    );
    let image = chat(&json!({"role": "user", "content": [{"type": "image", "text": "x"}]}));
    assert_eq!(
        refused(&image, Format::Chat),
        "`messages[1].content[0]` is of type \"image\": only parts of type text are supported"
    );
}

#[test]
fn an_answers_reasoning_and_calls_are_kept_for_the_template() {
    let answer = |key: &str, value: &Value| json!({"role": "assistant", "content": "a", key: value});
    for (key, value) in
        [("tool_calls", json!([{"id": 1}])), ("reasoning_content", json!("r")), ("thinking", json!("r"))]
    {
        let record = json!({"prompt": "x", "chosen": answer(key, &value), "rejected": "b"});
        assert_eq!(json!(parsed(&record, Format::Pairs).response_extras), json!([{key: value}, {}]));
        let record = json!({"prompt": "x", "completions": [{"response": "b"}, {"response": "a", key: value}]});
        let record = parsed(&record, Format::UltraFeedback);
        assert_eq!(json!(record.response_extras), json!([{}, {key: value}]));
        assert!(record.ignored.is_empty());
    }
    assert!(parsed(&json!({"prompt": "x", "chosen": "a", "rejected": "b"}), Format::Pairs).response_extras.is_empty());
    let call = json!({"role": "assistant", "content": null, "tool_calls": [{"id": 1}]});
    assert_eq!(
        refused(&json!({"prompt": "x", "chosen": call, "rejected": "b"}), Format::Pairs),
        "the last turn of `chosen` has no content: write an empty text if it only calls tools"
    );
}

#[test]
fn a_turns_weight_says_whether_it_is_a_target() {
    let turn = |key: &str, value: &Value| chat(&json!({"role": "assistant", "content": "y", key: value}));
    for key in ["weight", "train", "training", "loss"] {
        for (value, expected) in [(json!(0), false), (json!(false), false), (json!(1.0), true), (Value::Null, true)] {
            assert_eq!(last_turn(&turn(key, &value)).is_target(), Ok(expected), "{key} {value}");
        }
        let problem = refused(&turn(key, &json!(0.5)), Format::Chat);
        assert!(problem.starts_with(&format!("`messages[1].{key}` is 0.5: a turn is a target")), "{problem}");
    }
    let user = chat(&json!({"role": "user", "content": "y", "train": true}));
    assert!(refused(&user, Format::Chat).contains("is a \"user\" turn that is to be trained on"));
    let mask = chat(&json!({"role": "assistant", "content": "y", "mask": true}));
    assert!(refused(&mask, Format::Chat).starts_with("`messages[1].mask` would change which tokens are targets"));
    let contradiction = chat(&json!({"role": "assistant", "content": "y", "train": true, "weight": 0}));
    assert!(refused(&contradiction, Format::Chat).contains("contradict each other"));
    let pair = json!({"prompt": "x", "chosen": {"role": "assistant", "content": "a", "weight": 0}, "rejected": "b"});
    assert!(refused(&pair, Format::Pairs).starts_with("the last turn of `chosen` has a weight of 0"));
}

#[test]
fn fields_that_would_change_what_is_trained_are_refused() {
    for (field, value) in [
        ("images", json!(["a.png"])),
        ("functions", json!([{"name": "f"}])),
        ("chat_template_kwargs", json!({"enable_thinking": false})),
        ("loss_mask", json!([0, 1])),
        ("input", json!("and more")),
        ("history", json!([["q", "a"]])),
        ("weight", json!(0.5)),
        ("sample_weight", json!(2)),
    ] {
        let problem = refused(&rated(&json!({field: value})), Format::UltraFeedback);
        assert!(problem.starts_with(&format!("`{field}`")) && problem.contains([';', ':']), "{problem}");
        for empty in [Value::Null, json!("")] {
            parsed(&rated(&json!({field: empty})), Format::UltraFeedback);
        }
    }
    parsed(&rated(&json!({"weight": 1})), Format::UltraFeedback);
}

#[test]
fn fields_without_effect_are_listed() {
    let record = json!({
        "instruction": "x", "prompt": "y", "id": 3, "nothing": null, "source": 5, "metadata": {"source": null},
        "completions": [{"response": "a", "model": "m", "annotations": {"h": [{"Rating": 1, "Rationale": "r"}, {"Rating": 2}]}}],
    });
    let expected = [
        "completions[].annotations.*.Rationale",
        "completions[].annotations.*[1:]",
        "completions[].model",
        "id",
        "prompt",
        "source",
    ];
    assert_eq!(ignored(&record, Format::UltraFeedback), expected);
    let turns = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "a"}]);
    let record =
        json!({"prompt": "flattened: x", "chosen": turns, "rejected": turns, "messages": turns, "score_chosen": 1});
    assert_eq!(ignored(&record, Format::Pairs), ["messages", "prompt", "score_chosen"]);
    let record = json!({"messages": turns, "conversations": [{"from": "human", "value": "z"}], "chosen": "x"});
    assert_eq!(ignored(&record, Format::Chat), ["chosen", "conversations"]);
}

#[test]
fn a_dimension_is_rated_once() {
    let json = r#"{"instruction":"x","completions":[{"response":"a","annotations":[{"Type":"h","Rating":1},{"Type":"h","Rating":2}]}]}"#;
    assert_eq!(
        problem(json, Format::UltraFeedback),
        "`completions[0].annotations[1]` rates `h` again: expected one rating for each dimension"
    );
}

#[test]
fn numbers_are_read_as_python_and_numpy_write_them() {
    let found = ratings(r#"{"a":{"Rating":NaN},"b":NaN,"c":"np.float64(3.5)","d":{"Rating":"numpy.int64(4)"},"e":2}"#);
    let values: Vec<Rating> = found.into_values().collect();
    let nan = Rating::Missing("nan");
    assert_eq!(values, [nan.clone(), nan, Rating::Value(3.5), Rating::Value(4.0), Rating::Value(2.0)]);
    let rated = |rating: &str| {
        format!(
            r#"{{"instruction":"x","completions":[{{"response":"a","annotations":{{"h":{{"Rating":{rating}}}}}}}]}}"#
        )
    };
    for infinite in ["Infinity", "-Infinity", "\"inf\"", "\"-Infinity\""] {
        let problem = problem(&rated(infinite), Format::UltraFeedback);
        let written = infinite.trim_matches('"');
        let expected = format!(
            "`completions[0].annotations.h.Rating` is {written}: a rating is a finite number, and a missing one null or NaN"
        );
        assert_eq!(problem, expected);
    }
    let problem = problem(&rated("np.float64(3.5)"), Format::UltraFeedback);
    assert!(problem.contains("Python wrote this value, not JSON"), "{problem}");
}

#[test]
fn nan_is_a_missing_value_wherever_it_stands() {
    let json = r#"{"system":NaN,"tools":NaN,"source":NaN,"prompt":"say NaN, \"Infinity\" and -Infinity","chosen":"a","rejected":"b"}"#;
    let record = Record::parse(json, Format::Pairs, 0).unwrap();
    assert_eq!(record.prompt, Prompt::Text("say NaN, \"Infinity\" and -Infinity".into()));
    assert_eq!((record.tools, record.source), (None, None));
    assert_eq!(
        problem(r#"{"prompt":"x","chosen":NaN,"rejected":"b"}"#, Format::Pairs),
        "`chosen` is NaN: expected text, a message, or a list of {role, content} objects"
    );
    let call = r#"{"messages":[{"role":"assistant","content":"x","tool_calls":[{"a":NaN}]}]}"#;
    assert_eq!(
        problem(call, Format::Chat),
        "`messages[0].tool_calls` holds NaN, which JSON does not have: write null, or a number"
    );
    // The place of a later problem is that in the file.
    assert_eq!(problem(r#"{"a": NaN, "b": 1 "c"}"#, Format::Chat), "not valid JSON: expected `,` or `}` at column 19");
    assert!(problem(r#"{"a": NaNs}"#, Format::Chat).starts_with("not valid JSON"));
}

#[test]
fn half_a_character_is_named() {
    let cases = [
        (r#"{"a": "x \ud83d y"}"#, "`\\ud83d` is a lone surrogate, half of a character at column 10"),
        (r#"{"a": "\udca9"}"#, "`\\udca9` is a lone surrogate, half of a character at column 8"),
        (r#"{"a": "\ud83d\ud83d\udca9"}"#, "`\\ud83d` is a lone surrogate, half of a character at column 8"),
    ];
    for (json, expected) in cases {
        let found = problem(json, Format::Chat);
        let expected = format!("not valid JSON: {expected}; write both halves, or the character itself, or remove it");
        assert_eq!(found, expected);
    }
    let whole = r#"{"prompt":"\ud83d\udca9 \\ud83d","chosen":"a","rejected":"b"}"#;
    assert_eq!(pair(whole).0, Prompt::Text("💩 \\ud83d".into()));
}

#[test]
fn unrated_records_have_a_body() {
    let record = parsed(&json!({"prompt": "x", "completions": []}), Format::UltraFeedback);
    assert_eq!(record.body, Body::Rated(Vec::new()));
}
