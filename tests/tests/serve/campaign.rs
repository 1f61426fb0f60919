//! 500 requests of every kind at once: good, malformed, slow and abandoned ones. Every good one is answered as if it were
//! alone, nothing crashes, no text is lost, and the memory is back to where it was.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lambda_dpo_tests::batches::Rng;
use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::{Reply, Server};
use serde_json::{Value, json};

use super::alone::{Alone, GREEDY, Sampling, field, lambda};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const NUM_REQUESTS: usize = 500;
const NUM_CLIENTS: usize = 12;
/// Growth allowed while requests of the same kinds come again: it is some 3 MiB, and the allocator of another machine may
/// keep more.
const GROWTH: u64 = 24 << 20;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    Malformed,
    Abandoned,
}

fn kind(number: usize) -> Kind {
    match number % 10 {
        3 => Kind::Malformed,
        6 => Kind::Abandoned,
        _ => Kind::Good,
    }
}

/// A well-formed request, and how each of its texts must come back.
struct Good {
    path: &'static str,
    body: Value,
    prompts: Vec<Vec<i64>>,
    lambda: [f64; 4],
    sampling: Sampling,
    max_tokens: usize,
    stops: Vec<&'static str>,
}

fn good(number: usize, alone: &Alone) -> Good {
    let mut rng = Rng(1000 + number as u64);
    let mut pick = |num: usize| rng.between(0, num - 1);
    let texts = [
        "The toad",
        "What is an otter?",
        "Describe the heron.",
        "a",
        "Where do moths live, and what do they eat at night?",
    ];
    let lambda = lambda(pick(6));
    let sampling = match pick(2) {
        0 => GREEDY,
        _ => Sampling { temperature: 0.8, top_p: 0.9, seed: pick(3) as u64 },
    };
    let (max_tokens, stops) = (1 + pick(32), [vec![], vec!["."], vec!["the", " at n"]][pick(3)].clone());
    let mut body = json!({
        "model": "m", "max_tokens": max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
        "seed": sampling.seed, "stop": stops, "stream": pick(2) == 1,
    });
    match pick(2) {
        0 => body["lambda"] = field(lambda),
        _ => {
            let pairs: Vec<String> =
                super::alone::DIMENSIONS.iter().zip(lambda).map(|(name, weight)| format!("{name}={weight}")).collect();
            body["model"] = json!(format!("m@{}", pairs.join(",")));
        }
    }
    let text = texts[pick(texts.len())];
    let (path, prompts) = match pick(3) {
        0 => {
            body["messages"] = json!([{ "role": "user", "content": text }]);
            (CHAT, vec![alone.chat_ids(text)])
        }
        1 => {
            body["prompt"] = json!(text);
            (COMPLETIONS, vec![alone.text_ids(text)])
        }
        _ => {
            let other = texts[pick(texts.len())];
            let prompts = vec![alone.text_ids(text), alone.text_ids(other)];
            body["prompt"] = json!(prompts);
            (COMPLETIONS, prompts)
        }
    };
    Good { path, body, prompts, lambda, sampling, max_tokens, stops }
}

/// Sends a request; returns text and reason of each choice.
fn answers(server: &Server, good: &Good) -> Vec<(String, String)> {
    let mut found = vec![(String::new(), String::new()); good.prompts.len()];
    let objects = match good.body["stream"] == true {
        true => server.post(good.path, &good.body).events(),
        false => vec![server.ask(good.path, &good.body)],
    };
    for choice in objects.iter().flat_map(|object| object["choices"].as_array().unwrap()) {
        let (text, reason) = &mut found[choice["index"].as_u64().unwrap() as usize];
        let parts = [&choice["text"], &choice["message"]["content"], &choice["delta"]["content"]];
        *text += parts.iter().find_map(|part| part.as_str()).unwrap_or_default();
        *reason += choice["finish_reason"].as_str().unwrap_or_default();
    }
    found
}

/// Sends a request that cannot be answered, and checks its status.
fn malformed(server: &Server, number: usize) {
    let chat = |more: Value| {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body.to_string().into_bytes()
    };
    let bodies: [(u16, Vec<u8>); 14] = [
        (400, b"{ this is no JSON".to_vec()),
        (400, chat(json!({ "messages": "Hello" }))),
        (400, chat(json!({ "temperature": [1] }))),
        (413, vec![b'{'; 2 << 20]),
        (400, chat(json!({ "lambda": { "honesty": 0.5, "helpfulness": 0.9 } }))),
        (400, chat(json!({ "lambda": { "wit": 1 } }))),
        (400, chat(json!({ "messages": [{ "role": "user", "content": "toad ".repeat(1000) }] }))),
        (400, chat(json!({ "max_tokens": 0 }))),
        (400, chat(json!({ "max_tokens": 1_000_000_000 }))),
        (400, b"{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"\xff\xc3\"}]}".to_vec()),
        (404, chat(json!({ "model": "other" }))),
        (400, chat(json!({ "model": "m@wit=1" }))),
        (400, "[".repeat(200_000).into_bytes()),
        (400, chat(json!({ "n": -1 }))),
    ];
    let number = number / 10;
    match number % (bodies.len() + 3) {
        at if at < bodies.len() => {
            let (status, body) = &bodies[at];
            let reply = server.send("POST", CHAT, "", body);
            assert_eq!(reply.status, *status, "kind {at}: {}", reply.text());
            assert!(reply.json()["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        }
        at if at == bodies.len() => {
            let ids = json!({ "prompt": [[5, 6], [5, 1_i64 << 40]] });
            server.refuse(COMPLETIONS, &ids, 400);
        }
        at if at == bodies.len() + 1 => {
            // A client that sends a byte now and then, for longer than it may.
            let mut stream = server.connect();
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).unwrap();
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(300));
                let _ = stream.write_all(b" ");
            }
            assert_eq!(Reply::read(&mut stream).status, 408);
        }
        _ => {
            let mut stream = server.connect();
            stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").unwrap();
            assert_eq!(Reply::read(&mut stream).status, 400);
        }
    }
}

/// Sends a long request and leaves: at once, in the middle of the request, or after some of the answer.
fn abandoned(server: &Server, number: usize) {
    let body = json!({ "prompt": "The toad", "max_tokens": 400, "n": 2, "temperature": 2, "stream": number % 4 < 2 });
    let text = body.to_string();
    match number / 10 % 3 {
        0 => drop(server.open("POST", COMPLETIONS, "", text.as_bytes())),
        1 => {
            let mut stream = server.connect();
            let head = format!(
                "POST {COMPLETIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                text.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&text.as_bytes()[..text.len() / 2]).unwrap();
        }
        _ => {
            let mut stream = server.open("POST", COMPLETIONS, "", text.as_bytes());
            stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let _ = stream.read(&mut [0; 300]);
        }
    }
}

#[test]
fn five_hundred_requests_of_every_kind() {
    let policy = Policy::with_lambda_adapter();
    let alone = Alone::new(&policy);
    let server =
        Server::with_lambda(&policy, &["--client-timeout", "2", "--max-batch-size", "8", "--max-queue", "100"]);
    let run = |numbers: std::ops::Range<usize>| {
        let next = AtomicUsize::new(numbers.start);
        let found = thread::scope(|scope| {
            let client = || {
                let mut found = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return found;
                    }
                    match kind(number) {
                        Kind::Good => found.push((number, answers(&server, &good(number, &alone)))),
                        Kind::Malformed => malformed(&server, number),
                        Kind::Abandoned => abandoned(&server, number),
                    }
                }
            };
            let clients: Vec<_> = (0..NUM_CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        for metric in ["lambda_dpo_batch_size", "lambda_dpo_queue_length"] {
            server.wait_for(metric, |texts| texts == 0.0);
        }
        found
    };
    let found = run(0..NUM_REQUESTS);
    // The first time, the allocator keeps what the largest batches of each kind took: on a busy machine, these come late.
    let memory = server.memory();
    run(0..NUM_REQUESTS / 2);
    let after = server.memory();

    assert_eq!(found.len(), NUM_REQUESTS * 8 / 10);
    for (number, answers) in found {
        let Good { prompts, lambda, sampling, max_tokens, stops, body, .. } = good(number, &alone);
        for (prompt, (text, reason)) in prompts.iter().zip(answers) {
            let expected = alone.answer(prompt, lambda, sampling, max_tokens, &stops);
            assert_eq!((text, reason.as_str()), (expected.text, expected.finish_reason), "request {number}: {body}");
        }
    }
    assert_eq!(server.metric("lambda_dpo_engine_failures_total"), 0.0, "{}", server.log());
    assert!(server.metric("lambda_dpo_texts_abandoned_total") > 10.0, "no client left while its text was running");
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert!(after <= memory + GROWTH, "{} MiB became {} MiB", memory >> 20, after >> 20);
    assert_eq!(server.get("/health").status, 200);
}
