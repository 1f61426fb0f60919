//! Signals: what is running is finished, what is new is refused, and the program exits with 0.

use std::thread;
use std::time::Duration;

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::program;
use lambda_dpo_tests::server::{Reply, Server};
use serde_json::json;

const COMPLETIONS: &str = "/v1/completions";

#[test]
fn a_signal_finishes_what_is_running_and_refuses_what_is_new() {
    for signal in ["TERM", "INT"] {
        let policy = Policy::that_never_ends();
        let mut server = Server::with_lambda(&policy, &[]);
        let body = json!({ "prompt": "The toad", "max_tokens": 1000, "n": 8, "stream": true });
        let mut running = server.open("POST", COMPLETIONS, "", body.to_string().as_bytes());
        server.wait_for("lambda_dpo_batch_size", |texts| texts > 0.0);
        server.signal(signal);
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while server.get("/health").status == 200 {
            assert!(std::time::Instant::now() < end);
            thread::sleep(Duration::from_millis(5));
        }
        let reply = server.post(COMPLETIONS, &json!({ "prompt": "The toad" }));
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{}", reply.text());
        assert_eq!(reply.json()["error"]["code"], "stopping");
        let events = Reply::read(&mut running).events();
        let ended = events.iter().filter(|event| !event["choices"][0]["finish_reason"].is_null()).count();
        assert_eq!(ended, 8, "{signal}");
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert!(server.log().contains("texts are finished first, for at most 30 s"), "{}", server.log());
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let policy = Policy::that_never_ends();
    let mut server = Server::with_lambda(&policy, &["--max-batch-size", "1"]);
    let body = json!({ "prompt": "The toad", "max_tokens": 500, "n": 60 });
    let _running = server.open("POST", COMPLETIONS, "", body.to_string().as_bytes());
    server.wait_for("lambda_dpo_queue_length", |texts| texts > 50.0);
    server.signal("TERM");
    thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(128 + 15), "{}", server.log());
}

#[test]
fn an_idle_server_ends_at_once_although_connections_are_open() {
    let policy = Policy::with_lambda_adapter();
    let mut server = Server::with_lambda(&policy, &[]);
    let _idle = server.connect();
    server.signal("TERM");
    let start = std::time::Instant::now();
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    // Far less than the 30 s that running texts would have.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn other_addresses_without_a_key_print_a_warning() {
    let policy = Policy::with_lambda_adapter();
    let start = |host: &str, key: Option<&str>| {
        let mut command = program(&policy.path("cache"));
        command.args(["serve", "--device", "cpu", "--port", "0", "--host", host, "--model", &policy.text("model")]);
        if let Some(key) = key {
            command.env("LAMBDA_DPO_API_KEY", key);
        }
        Server::spawn(&mut command)
    };
    let warning = "warning: anyone who reaches 0.0.0.0:";
    let open = start("0.0.0.0", None);
    assert!(open.log().contains(warning) && open.log().contains("set --api-key"), "{}", open.log());
    assert_eq!(open.get("/v1/models").json()["data"][0]["id"], "model", "the model is called as its folder");
    let closed = start("0.0.0.0", Some("secret"));
    assert!(!closed.log().contains(warning), "{}", closed.log());
    assert_eq!(closed.get("/v1/models").status, 401);
    assert!(!start("127.0.0.1", None).log().contains("warning"));
}
