//! Limits: the queue, and clients that leave or do not read.

use std::io::Read;
use std::thread;
use std::time::Duration;

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::{Reply, Server};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const RUNNING: &str = "lambda_dpo_batch_size";
const WAITING: &str = "lambda_dpo_queue_length";
const ABANDONED: &str = "lambda_dpo_texts_abandoned_total";

fn long(num_texts: usize) -> Value {
    json!({ "prompt": "The toad", "max_tokens": 10_000, "n": num_texts, "stream": true })
}

fn open(server: &Server, num_texts: usize) -> std::net::TcpStream {
    server.open("POST", COMPLETIONS, "", long(num_texts).to_string().as_bytes())
}

#[test]
fn a_full_queue_refuses_and_takes_again() {
    let policy = Policy::that_never_ends();
    let server = Server::with_lambda(&policy, &["--max-batch-size", "2", "--max-queue", "1"]);
    let running = open(&server, 2);
    server.wait_for(RUNNING, |texts| texts == 2.0);
    let waiting = open(&server, 1);
    server.wait_for(WAITING, |texts| texts == 1.0);
    let reply = server.post(COMPLETIONS, &json!({ "prompt": "The toad" }));
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")), "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("rate_limit_error"), &json!("rate_limit_exceeded")));
    assert!(error["message"].as_str().unwrap().contains("3 texts running and waiting"), "{error}");
    assert_eq!(server.metric("lambda_dpo_requests_total{route=\"/v1/completions\",status=\"429\"}"), 1.0);
    // The text that waits takes the place of one that ends.
    drop(running);
    server.wait_for(ABANDONED, |texts| texts == 2.0);
    server.wait_for(WAITING, |texts| texts == 0.0);
    drop(waiting);
    server.wait_for(ABANDONED, |texts| texts == 3.0);
    server.wait_for(RUNNING, |texts| texts == 0.0);
    server.ask(COMPLETIONS, &json!({ "prompt": "The toad", "n": 3, "max_tokens": 2 }));
}

#[test]
fn a_client_that_leaves_frees_its_texts_within_a_step() {
    let policy = Policy::that_never_ends();
    let server = Server::with_lambda(&policy, &["--max-batch-size", "4"]);
    let generated = "lambda_dpo_tokens_generated_total";
    // In the middle of a stream.
    let mut stream = open(&server, 3);
    stream.read_exact(&mut [0; 400]).unwrap();
    // The first text's events are sent before the others are admitted.
    server.wait_for(RUNNING, |texts| texts == 3.0);
    drop(stream);
    server.wait_for(RUNNING, |texts| texts == 0.0);
    assert_eq!(server.metric(ABANDONED), 3.0);
    let after = server.metric(generated);
    assert!(after < 3.0 * 9_000.0, "the texts went on for {after} tokens");
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.metric(generated), after, "tokens for nobody");
    // While waiting for an answer that is not streamed.
    let mut body = long(2);
    body["stream"] = json!(false);
    let stream = server.open("POST", COMPLETIONS, "", body.to_string().as_bytes());
    server.wait_for(RUNNING, |texts| texts == 2.0);
    drop(stream);
    server.wait_for(RUNNING, |texts| texts == 0.0);
    assert_eq!(server.metric(ABANDONED), 5.0);
    server.wait_for("lambda_dpo_requests_total{route=\"/v1/completions\",status=\"499\"}", |requests| requests == 1.0);
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let policy = Policy::that_never_ends();
    let server =
        Server::with_lambda(&policy, &["--client-timeout", "1", "--max-batch-size", "8", "--max-queue", "200"]);
    // An answer of more bytes than the buffers of the sockets hold, and nobody reads it.
    let prompt: Vec<usize> = (0..500).map(|at| 5 + (at * 31) % 300).collect();
    let body = json!({ "prompt": vec![prompt; 150], "echo": true, "logprobs": 5, "max_tokens": 1 });
    let mut deaf = server.open("POST", COMPLETIONS, "", body.to_string().as_bytes());
    server.wait_for("lambda_dpo_tokens_generated_total", |tokens| tokens >= 150.0);
    server.ask(COMPLETIONS, &json!({ "prompt": "The toad", "max_tokens": 2 }));
    // Three times the time that it may take, once the answer has begun.
    server.wait_for("lambda_dpo_requests_total{route=\"/v1/completions\",status=\"200\"}", |answers| answers == 2.0);
    thread::sleep(Duration::from_secs(3));
    let mut answer = Vec::new();
    let _ = deaf.read_to_end(&mut answer);
    let head = String::from_utf8_lossy(&answer[..answer.len().min(1000)]).into_owned();
    let promised = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
    let promised = promised.unwrap_or_else(|| panic!("{head}"));
    assert!(answer.len() < promised, "{} bytes of {promised} were kept for a client that does not read", answer.len());
    assert_eq!((server.metric(RUNNING), server.metric(WAITING)), (0.0, 0.0));
}

#[test]
fn connections_can_be_used_again_and_requests_can_come_in_pieces() {
    let policy = Policy::that_never_ends();
    let server = Server::with_lambda(&policy, &[]);
    let body = json!({ "prompt": "The toad", "max_tokens": 3, "temperature": 0 }).to_string();
    let mut stream = server.connect();
    let head =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json; charset=utf-8\r\n");
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &body[..5],
        body.len() - 5,
        &body[5..]
    );
    let last = format!("{head}connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    for byte in format!("{chunked}{last}").as_bytes().chunks(17) {
        std::io::Write::write_all(&mut stream, byte).unwrap();
        thread::sleep(Duration::from_millis(2));
    }
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();
    let answers: Vec<&str> = replies.matches("\"text\":\"").collect();
    assert_eq!(answers.len(), 2, "{replies}");
    assert_eq!(Reply::read(&mut server.open("HEAD", "/health", "", b"")).status, 200);
}

#[test]
fn a_model_that_is_broken_fails_its_texts_and_not_the_server() {
    let policy = Policy::with_lambda_adapter();
    policy.change_weight("model.norm.weight", f64::NAN);
    let server = Server::with_lambda(&policy, &[]);
    for stream in [false, true] {
        let error = server.refuse(COMPLETIONS, &json!({ "prompt": "The toad", "stream": stream }), 500);
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("internal_error")));
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("the model's logits are not finite numbers"), "{message}");
    }
    server.wait_for(RUNNING, |texts| texts == 0.0);
    assert_eq!(server.get("/health").status, 200);
}
