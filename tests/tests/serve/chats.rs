//! Chats: many at once, each with its own λ, streamed and not.

use std::thread;

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::Server;
use serde_json::{Value, json};

use super::alone::{Alone, DIMENSIONS, GREEDY, Sampling, field, lambda};

const CHAT: &str = "/v1/chat/completions";

fn ask(content: &str) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": content }], "temperature": 0, "max_tokens": 24 })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Joins the deltas of a stream, by choice.
fn joined(events: &[Value], num_choices: usize) -> Vec<(String, Value)> {
    let mut texts = vec![(String::new(), Value::Null); num_choices];
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let (text, reason) = &mut texts[choice["index"].as_u64().unwrap() as usize];
        assert!(reason.is_null(), "a choice goes on after its end");
        *text += choice["delta"]["content"].as_str().unwrap_or_default();
        *reason = choice["finish_reason"].clone();
    }
    texts
}

#[test]
fn sixteen_chats_at_once_are_answered_as_each_alone() {
    let policy = Policy::with_lambda_adapter();
    let (alone, server) = (Alone::new(&policy), Server::with_lambda(&policy, &[]));
    let prompt = alone.chat_ids("Describe the toad.");
    let expected: Vec<_> = (0..16).map(|index| alone.answer(&prompt, lambda(index), GREEDY, 24, &[])).collect();
    let body = |index: usize| with(ask("Describe the toad."), json!({ "lambda": field(lambda(index)) }));
    let answers: Vec<Value> = thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|index| {
                scope.spawn({
                    let server = &server;
                    move || server.ask(CHAT, &body(index))
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for (index, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], expected.text, "{index}");
        assert_eq!(choice["finish_reason"], expected.finish_reason);
        let usage = json!({
            "prompt_tokens": prompt.len(),
            "completion_tokens": expected.num_tokens,
            "total_tokens": prompt.len() + expected.num_tokens,
        });
        assert_eq!(answer["usage"], usage);
        for (dimension, weight) in DIMENSIONS.iter().zip(lambda(index)) {
            assert!((answer["lambda"][dimension].as_f64().unwrap() - weight).abs() < 1e-12);
        }
        // The same in events, which end with the usage.
        let streamed = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let events = server.post(CHAT, &with(body(index), streamed)).events();
        let (last, events) = events.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
        assert_eq!(joined(events, 1), [(expected.text.clone(), json!(expected.finish_reason))]);
        assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "", "refusal": null }));
        for event in events {
            assert_eq!((&event["object"], &event["usage"]), (&json!("chat.completion.chunk"), &Value::Null));
            assert_eq!((&event["id"], &event["lambda"]), (&events[0]["id"], &answer["lambda"]));
        }
    }
    let texts: std::collections::HashSet<_> = expected.iter().map(|expected| &expected.text).collect();
    assert!(texts.len() > 4, "the answers hardly depend on λ: {texts:?}");
}

#[test]
fn lambda_in_the_models_name_is_that_of_the_field_and_of_the_command_line() {
    let policy = Policy::with_lambda_adapter();
    let server = Server::with_lambda(&policy, &[]);
    let content = |more: Value| {
        let answer = server.ask(CHAT, &with(ask("Describe the toad."), more));
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    for (name, weights, command) in [
        ("m", json!({}), None),
        ("m@honesty", json!({ "honesty": 1 }), Some("honesty=1")),
        (
            "m@honesty=0.7,helpfulness=0.1",
            json!({ "helpfulness": 0.1, "honesty": 0.7 }),
            Some("helpfulness=0.1,honesty=0.7"),
        ),
    ] {
        let text = content(json!({ "model": name }));
        assert_eq!(text, content(json!({ "lambda": weights })), "{name}");
        let (model, adapter) = (policy.text("model"), policy.text("adapter"));
        let mut arguments =
            vec!["generate", "--device", "cpu", "--model", &model, "--adapter", &adapter, "--max-new-tokens", "24"];
        arguments.extend(command.iter().flat_map(|lambda| ["--lambda", lambda]));
        arguments.push("Describe the toad.");
        let printed = String::from_utf8(policy.run(&arguments).stdout).unwrap();
        assert_eq!(printed.strip_suffix('\n').unwrap(), text, "{name}");
    }
    assert_ne!(content(json!({ "model": "m@honesty" })), content(json!({ "model": "m" })));

    let models = server.get("/v1/models").json();
    let names: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["m", "m@helpfulness", "m@honesty", "m@instruction_following", "m@truthfulness"]);
    let first = &models["data"][0];
    assert_eq!(
        (&models["object"], &first["object"], &first["owned_by"]),
        (&json!("list"), &json!("model"), &json!("lambda-dpo"))
    );
    assert_eq!((&first["dimensions"], &first["lambda"]), (&json!(DIMENSIONS), &field([0.25; 4])));
    assert_eq!(models["data"][2]["lambda"], field([0.0, 1.0, 0.0, 0.0]));
    assert_eq!((&first["max_model_len"], &first["has_chat_template"]), (&json!(512), &json!(true)));
    assert!(first["created"].as_u64().unwrap() > 1_600_000_000);
}

#[test]
fn seeds_stops_and_several_choices() {
    let policy = Policy::with_lambda_adapter();
    let (alone, server) = (Alone::new(&policy), Server::with_lambda(&policy, &[]));
    let prompt = alone.chat_ids("Describe the toad.");
    let sampling = Sampling { temperature: 0.9, top_p: 0.8, seed: 7 };
    let expected = alone.answer(&prompt, [0.25; 4], sampling, 24, &[]);
    let sampled = json!({ "temperature": 0.9, "top_p": 0.8, "seed": 7, "n": 3 });
    let answer = server.ask(CHAT, &with(ask("Describe the toad."), sampled.clone()));
    let contents = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let texts = contents(&answer);
    assert_eq!((texts.len(), &texts[0], &answer["seed"]), (3, &expected.text, &json!(7)));
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    let events = server.post(CHAT, &with(ask("Describe the toad."), with(sampled, json!({ "stream": true })))).events();
    let streamed: Vec<String> = joined(&events, 3).into_iter().map(|(text, _)| text).collect();
    assert_eq!(streamed, texts);

    // Without a seed every answer is another one, and says how to repeat it.
    let free =
        |more: Value| server.ask(CHAT, &with(ask("Describe the toad."), with(json!({ "temperature": 1 }), more)));
    let (first, second) = (free(json!({})), free(json!({})));
    assert_ne!(first["seed"], second["seed"]);
    assert_eq!(contents(&free(json!({ "seed": first["seed"] }))), contents(&first));

    // Stop strings of some characters inside the greedy text.
    let whole = alone.answer(&prompt, [0.25; 4], GREEDY, 24, &[]).text;
    let chars: Vec<char> = whole.chars().collect();
    assert!(chars.len() > 12, "{whole}");
    for (start, len) in [(3, 1), (4, 2), (5, 5), (8, 3)] {
        let stop: String = chars[start..start + len].iter().collect();
        let expected = alone.answer(&prompt, [0.25; 4], GREEDY, 24, &[&stop, "no such text"]);
        assert_eq!((expected.finish_reason, expected.text.contains(&stop)), ("stop", false));
        let body = with(ask("Describe the toad."), json!({ "stop": [stop, "no such text"] }));
        let answer = server.ask(CHAT, &body);
        assert_eq!(contents(&answer), std::slice::from_ref(&expected.text));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["usage"]["completion_tokens"], expected.num_tokens);
        let events = server.post(CHAT, &with(body, json!({ "stream": true }))).events();
        assert_eq!(joined(&events, 1), [(expected.text, json!("stop"))]);
    }
}

#[test]
fn log_probs_of_a_chat_are_the_models_own() {
    let policy = Policy::with_lambda_adapter();
    let (alone, server) = (Alone::new(&policy), Server::with_lambda(&policy, &[]));
    let prompt = alone.chat_ids("Describe the toad.");
    // A temperature changes what is sampled, not the log-probs.
    let more = json!({ "logprobs": true, "top_logprobs": 3, "temperature": 0.8, "seed": 3, "max_tokens": 12 });
    let body = with(ask("Describe the toad."), with(more, json!({ "lambda": field(lambda(2)) })));
    let answer = server.ask(CHAT, &body);
    let choice = &answer["choices"][0];
    let listed = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(listed.len() as u64, answer["usage"]["completion_tokens"].as_u64().unwrap());
    let sampling = Sampling { temperature: 0.8, top_p: 1.0, seed: 3 };
    let expected = alone.answer(&prompt, lambda(2), sampling, 12, &[]);
    assert_eq!(choice["message"]["content"], expected.text);
    let ids: Vec<i64> = prompt.iter().copied().chain(alone.tokenizer.encode(&expected.text).unwrap()).collect();
    let log_probs = alone.log_probs(&ids, lambda(2));
    let mut text = String::new();
    for (at, entry) in listed.iter().enumerate() {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        let expected = log_probs.get((prompt.len() + at) as i64 - 1).topk(3, 0, true, true).0;
        for (rank, top) in top.iter().enumerate() {
            // 1e-4, as the log-probs of `score`: float32, over a handful of layers.
            let difference = top["logprob"].as_f64().unwrap() - expected.double_value(&[rank as i64]);
            assert!(difference.abs() < 1e-4, "{at}: {top} is off by {difference}");
        }
        let token = entry["token"].as_str().unwrap();
        assert_eq!(entry["bytes"], json!(token.as_bytes()));
        text += token;
    }
    assert_eq!(text.trim_end_matches("<|im_end|>"), expected.text);
    // Streamed, the same entries are spread over the events.
    let events = server.post(CHAT, &with(body, json!({ "stream": true }))).events();
    let contents = events.iter().filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(contents.flatten().collect::<Vec<_>>(), listed.iter().collect::<Vec<_>>());
}

#[test]
fn a_model_without_lambda_has_none() {
    let policy = Policy::with_adapter();
    let adapter = policy.text("adapter");
    let server = Server::start(&policy, &["--adapter", &adapter]);
    let answer = server.ask(CHAT, &ask("Describe the toad."));
    assert!(answer.get("lambda").is_none(), "{answer}");
    let models = server.get("/v1/models").json();
    assert_eq!((models["data"].as_array().unwrap().len(), &models["data"][0]["dimensions"]), (1, &json!([])));
    assert!(models["data"][0].get("lambda").is_none());
    for wrong in [json!({ "lambda": { "honesty": 1 } }), json!({ "model": "m@honesty" })] {
        let error = server.refuse(CHAT, &with(ask("Describe the toad."), wrong), 400);
        assert_eq!(error["message"], "`m` has no λ-adapter, so a request cannot choose λ: leave it out");
    }
}
