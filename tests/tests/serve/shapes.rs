//! Snapshots of one answer of each kind: every field and its place. Texts and numbers that a model computes are left out, so
//! that the snapshots hold on every processor.

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::Server;
use serde_json::{Map, Value, json};

/// Fields whose values differ from run to run, or from processor to processor.
const VARYING: [&str; 9] = ["id", "created", "seed", "text", "content", "token", "tokens", "bytes", "text_offset"];

/// Replaces values that vary by their kind.
fn shape(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => json!("<number>"),
        Value::Array(values) => Value::Array(values.iter().map(shape).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), of_field(name, value))).collect())
        }
        other => other.clone(),
    }
}

fn of_field(name: &str, value: &Value) -> Value {
    match value {
        Value::String(_) if VARYING.contains(&name) => json!(format!("<{name}>")),
        Value::Number(_) if VARYING.contains(&name) => json!(format!("<{name}>")),
        // Lists of log-probs also have fields of this name.
        Value::Array(values) if VARYING.contains(&name) && !values.iter().any(Value::is_object) => {
            // A token's length depends on the token; that of a list is the number of tokens.
            let length = if name == "bytes" { String::new() } else { format!("{} ", values.len()) };
            json!(format!("<{length}{name}>"))
        }
        // The most probable tokens by their text.
        Value::Array(values) if name == "top_logprobs" && values.iter().any(|value| !value.is_array()) => {
            let top = |value: &Value| match value {
                Value::Object(top) if !top.contains_key("logprob") => json!("<log-probs by token>"),
                other => shape(other),
            };
            Value::Array(values.iter().map(top).collect())
        }
        other => shape(other),
    }
}

fn pretty(values: &[Value]) -> String {
    values.iter().map(|value| serde_json::to_string_pretty(&shape(value)).unwrap() + "\n").collect()
}

#[test]
fn one_answer_of_each_kind() {
    let policy = Policy::with_lambda_adapter();
    // No text ends before its length.
    std::fs::write(policy.path("model/generation_config.json"), r#"{ "eos_token_id": 1000 }"#).unwrap();
    let server = Server::with_lambda(&policy, &[]);
    let (chat, completions) = ("/v1/chat/completions", "/v1/completions");
    let with = |more: Value| {
        let mut fields = Map::new();
        fields.insert("model".into(), json!("m@honesty"));
        fields.insert("temperature".into(), json!(0));
        fields.insert("max_tokens".into(), json!(2));
        fields.extend(more.as_object().unwrap().clone());
        Value::Object(fields)
    };
    let messages = json!([{ "role": "user", "content": "Describe the toad." }]);
    let whole = json!({ "messages": messages, "logprobs": true, "top_logprobs": 1 });
    insta::assert_snapshot!("chat", pretty(&[server.ask(chat, &with(whole))]));
    let streamed = json!({ "messages": messages, "stream": true, "stream_options": { "include_usage": true } });
    insta::assert_snapshot!("chat_streamed", pretty(&server.post(chat, &with(streamed)).events()));
    let echoed = json!({ "prompt": "The toad", "logprobs": 2, "echo": true });
    insta::assert_snapshot!("completion", pretty(&[server.ask(completions, &with(echoed))]));
    let streamed = json!({ "prompt": ["The toad"], "stream": true });
    insta::assert_snapshot!("completion_streamed", pretty(&server.post(completions, &with(streamed)).events()));
    insta::assert_snapshot!("models", pretty(&[server.get("/v1/models").json()]));
    insta::assert_snapshot!("error", pretty(&[server.post(completions, &json!({ "prompt": 1 })).json()]));
}
