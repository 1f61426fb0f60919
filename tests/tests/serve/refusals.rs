//! Requests that are refused: every status, with OpenAI's error object.

use lambda_dpo_tests::exports::Policy;
use lambda_dpo_tests::server::{Reply, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A chat with other fields.
fn chat(more: Value) -> Value {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn check(error: &Value, kind: &str, param: Option<&str>, code: &str, message: &str) {
    assert_eq!(
        (&error["type"], &error["param"], &error["code"]),
        (&json!(kind), &json!(param), &json!(code)),
        "{error}"
    );
    assert!(error["message"].as_str().unwrap().contains(message), "{error}");
}

#[test]
fn fields_with_bad_values_are_refused_by_name() {
    let policy = Policy::with_lambda_adapter();
    let server = Server::with_lambda(&policy, &["--max-batch-size", "4", "--max-queue", "4"]);
    let value = |param: &'static str, body: Value, message: &str| {
        let error = server.refuse(CHAT, &chat(body), 400);
        check(&error, "invalid_request_error", Some(param), "invalid_value", message);
    };
    value("temperature", json!({ "temperature": "hot" }), "`temperature` must be a number of at least 0, not \"hot\"");
    value("temperature", json!({ "temperature": -0.1 }), "at least 0");
    value("top_p", json!({ "top_p": 0 }), "above 0 and at most 1");
    value("n", json!({ "n": 0 }), "from 1 to 128");
    value("n", json!({ "n": 1.5 }), "from 1 to 128");
    value("seed", json!({ "seed": 1.5 }), "a whole number of 64 bits");
    value("max_tokens", json!({ "max_tokens": 0 }), "at least 1");
    value("max_completion_tokens", json!({ "max_completion_tokens": -1 }), "at least 1");
    value("max_tokens", json!({ "max_tokens": 4, "max_completion_tokens": 5 }), "give one of them");
    value("stop", json!({ "stop": ["a", "b", "c", "d", "e"] }), "at most 4");
    value("stop", json!({ "stop": "" }), "none of them empty");
    value("stop", json!({ "stop": [1] }), "a list of at most 4 strings");
    value("stream", json!({ "stream": 1 }), "true or false");
    value("stream_options", json!({ "stream_options": {} }), "only allowed when `stream` is true");
    value("top_logprobs", json!({ "top_logprobs": 2 }), "only allowed when `logprobs` is true");
    value("top_logprobs", json!({ "logprobs": true, "top_logprobs": 21 }), "from 0 to 20");
    value("messages", json!({ "messages": [] }), "must not be empty");
    value("messages", json!({ "messages": "Hello" }), "a list of messages");
    value("messages", json!({ "messages": null }), "`messages` is missing");
    value("messages", json!({ "messages": [{ "role": "user" }] }), "`messages[0]`.content is missing");
    value("lambda", json!({ "lambda": { "honesty": 0.7, "helpfulness": 0.5 } }), "they must sum to 1 within 0.001");
    value(
        "lambda",
        json!({ "lambda": { "honest": 1 } }),
        "λ names the dimension `honest`, but the adapter has helpfulness, honesty",
    );
    value("lambda", json!({ "model": "m@honesty", "lambda": { "honesty": 1 } }), "give it in one of them");
    value("model", json!({ "model": "m@honest" }), "λ names the dimension `honest`");
    value("model", json!({ "model": 7 }), "a string");

    let error = server.refuse(CHAT, &chat(json!({ "model": "other" })), 404);
    check(
        &error,
        "invalid_request_error",
        Some("model"),
        "model_not_found",
        "there is no model `other` here; there is `m`",
    );
    for (name, body) in [
        ("tools", json!({ "tools": [{ "type": "function" }] })),
        ("response_format", json!({ "response_format": { "type": "json_object" } })),
        ("frequency_penalty", json!({ "frequency_penalty": 0.5 })),
        ("logit_bias", json!({ "logit_bias": { "5": 100 } })),
    ] {
        let error = server.refuse(CHAT, &chat(body), 400);
        check(
            &error,
            "invalid_request_error",
            Some(name),
            "unsupported_parameter",
            "is not supported here: leave it out",
        );
    }
    // What changes nothing is accepted, and so are fields that nobody knows, and null.
    let neutral = json!({
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "tool_choice": "none",
        "response_format": { "type": "text" }, "user": "me", "top_k": 3, "stop": null, "lambda": null, "max_tokens": 2,
    });
    server.ask(CHAT, &chat(neutral));

    let most = 512;
    for max_tokens in [most, 1_000_000_000] {
        let error = server.refuse(CHAT, &chat(json!({ "max_tokens": max_tokens })), 400);
        check(
            &error,
            "invalid_request_error",
            Some("max_tokens"),
            "context_length_exceeded",
            "but together they have at most 512",
        );
    }
    let long = json!({ "messages": [{ "role": "user", "content": "toad ".repeat(600) }] });
    let error = server.refuse(CHAT, &chat(long), 400);
    check(&error, "invalid_request_error", Some("messages"), "context_length_exceeded", "shorten the prompt");
    let image = json!([{ "type": "image_url", "image_url": { "url": "data:" } }]);
    let error = server.refuse(CHAT, &chat(json!({ "messages": [{ "role": "user", "content": image }] })), 400);
    check(&error, "invalid_request_error", Some("messages"), "invalid_value", "a part of type `image_url`");
    // The demo's template prints no tool calls, and says so.
    let calls = json!({ "messages": [{ "role": "assistant", "content": "x", "tool_calls": [{ "id": "1" }] }] });
    let error = server.refuse(CHAT, &chat(calls), 400);
    check(&error, "invalid_request_error", Some("messages"), "invalid_value", "does not print `tool_calls`");

    let prompt = |body: Value, message: &str| {
        let error = server.refuse(COMPLETIONS, &body, 400);
        check(&error, "invalid_request_error", Some("prompt"), "invalid_value", message);
    };
    prompt(json!({}), "`prompt` is missing");
    prompt(json!({ "prompt": [] }), "none of them empty");
    prompt(json!({ "prompt": [[]] }), "none of them empty");
    prompt(json!({ "prompt": 7 }), "must be a string, a list of token ids, or a list of either");
    prompt(json!({ "prompt": [5, "a"] }), "must be a string, a list of token ids, or a list of either");
    prompt(json!({ "prompt": [5, -1] }), "the token id -1, but the model knows 0 to 373");
    prompt(json!({ "prompt": [[5], [374]] }), "the token id 374");
    let error = server.refuse(COMPLETIONS, &json!({ "prompt": "a", "max_tokens": 0 }), 400);
    check(&error, "invalid_request_error", Some("max_tokens"), "invalid_value", "at least 1");
    let error = server.refuse(COMPLETIONS, &json!({ "prompt": "a", "logprobs": 6 }), 400);
    check(&error, "invalid_request_error", Some("logprobs"), "invalid_value", "from 0 to 5");
    let error = server.refuse(COMPLETIONS, &json!({ "prompt": "a", "best_of": 3 }), 400);
    check(&error, "invalid_request_error", Some("best_of"), "unsupported_parameter", "not supported");
    let error = server.refuse(COMPLETIONS, &json!({ "prompt": ["a", "b", "c"], "n": 3 }), 400);
    assert!(
        error["message"].as_str().unwrap().contains("9 texts, prompts times `n`, but the server takes at most 8"),
        "{error}"
    );
    assert_eq!(server.metric("lambda_dpo_engine_failures_total"), 0.0);
}

#[test]
fn what_is_no_request_is_refused() {
    let policy = Policy::with_lambda_adapter();
    let server = Server::with_lambda(&policy, &["--client-timeout", "2"]);
    let send = |body: &[u8]| server.send("POST", CHAT, "", body);
    let error = |reply: &Reply, status: u16, code: Value| {
        assert_eq!(reply.status, status, "{}", reply.text());
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        let error = reply.json()["error"].clone();
        assert_eq!((&error["type"], &error["code"]), (&json!("invalid_request_error"), &code), "{error}");
    };
    let deep = "[".repeat(100_000);
    for body in
        [&b"not JSON"[..], b"", b"{\"model\": \"\xff\xfe\"}", b"{\"a\": \"\\ud800\"}", b"[1", b"1e999", deep.as_bytes()]
    {
        error(&send(body), 400, Value::Null);
    }
    error(&send(b"[]"), 400, Value::Null);
    error(&send(&vec![b' '; 2 << 20]), 413, json!("request_too_large"));
    error(&server.get("/v1/nothing"), 404, json!("unknown_url"));
    error(&server.get(CHAT), 405, json!("method_not_allowed"));
    error(&server.send("DELETE", "/v1/models", "", b""), 405, json!("method_not_allowed"));
    // A form, which a page of any origin can send.
    let mut stream = server.connect();
    let form = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: text/plain\r\n\
                content-length: 2\r\n\r\n{}";
    std::io::Write::write_all(&mut stream, form.as_bytes()).unwrap();
    error(&Reply::read(&mut stream), 415, json!("unsupported_media_type"));
    // A name that a page of another origin has pointed here.
    let mut stream = server.connect();
    let rebound = "GET /v1/models HTTP/1.1\r\nhost: evil.example:8000\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, rebound.as_bytes()).unwrap();
    error(&Reply::read(&mut stream), 403, json!("foreign_host"));
    // A body that never comes to its end.
    let mut stream = server.connect();
    let slow = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    std::io::Write::write_all(&mut stream, slow.as_bytes()).unwrap();
    let reply = Reply::read(&mut stream);
    error(&reply, 408, json!("request_timeout"));
    assert_eq!(reply.header("connection"), Some("close"));
    // A head that never does ends the connection.
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, b"POST /v1/chat").unwrap();
    Reply::read(&mut stream);
    assert!(!server.log().contains("panicked"), "{}", server.log());
    assert_eq!(server.get("/health").json(), json!({ "status": "ok" }));
}

#[test]
fn a_key_is_asked_for_where_the_api_is() {
    let policy = Policy::with_lambda_adapter();
    let server = Server::with_lambda(&policy, &["--api-key", "secret"]);
    for path in ["/", "/health", "/metrics"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let with = |header: &str| server.send("GET", "/v1/models", header, b"");
    for wrong in [
        "",
        "authorization: Bearer wrong\r\n",
        "authorization: Bearer secrets\r\n",
        "authorization: secret\r\n",
        "authorization: Basic secret\r\n",
    ] {
        let reply = with(wrong);
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{wrong}");
        check(&reply.json()["error"], "invalid_request_error", None, "invalid_api_key", "Authorization: Bearer KEY");
    }
    assert_eq!(with("authorization: Bearer secret\r\n").status, 200);
    assert_eq!(with("authorization: bearer  secret\r\n").status, 200);
    // No page of another origin knows the key, so the server may be called by any name.
    let mut stream = server.connect();
    let named = "GET /health HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, named.as_bytes()).unwrap();
    assert_eq!(Reply::read(&mut stream).status, 200);
    let refused = server.refuse(CHAT, &chat(json!({})), 401);
    check(&refused, "invalid_request_error", None, "invalid_api_key", "Bearer");
    assert!(!server.log().contains("secret"), "{}", server.log());
}

#[test]
fn the_page_may_only_talk_to_its_server() {
    let policy = Policy::with_lambda_adapter();
    let server = Server::with_lambda(&policy, &[]);
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(
        (page.header("x-content-type-options"), page.header("referrer-policy")),
        (Some("nosniff"), Some("no-referrer"))
    );
    let policy = page.header("content-security-policy").unwrap();
    for part in
        ["default-src 'none'", "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(page.text().to_ascii_lowercase().starts_with("<!doctype html>"));
    // No other origin may read an answer, or ask whether it may.
    let asked =
        server.send("OPTIONS", CHAT, "origin: https://other.example\r\naccess-control-request-method: POST\r\n", b"");
    assert_eq!((asked.status, asked.header("access-control-allow-origin")), (405, None));
    let read = server.send("GET", "/v1/models", "origin: https://other.example\r\n", b"");
    assert_eq!(read.header("access-control-allow-origin"), None);
}

#[test]
fn options_that_cannot_be_served_are_refused_at_the_start() {
    let policy = Policy::with_lambda_adapter();
    let (model, adapter) = (policy.text("model"), policy.text("adapter"));
    let refused = |arguments: &[&str]| {
        let own = ["serve", "--device", "cpu", "--model", &model, "--adapter", &adapter];
        policy.refuse(&[&own[..], arguments].concat())
    };
    assert_eq!(refused(&["--lambda", "honesty=1"]), "error: each request chooses its own λ: leave --lambda out");
    assert_eq!(refused(&["--max-batch-size", "0"]), "error: --max-batch-size must be at least 1, not 0");
    assert!(refused(&["--name", "a@b"]).contains("pass another with --name"));
    assert!(refused(&["--api-key", ""]).contains("the API key must not be empty"));
    assert!(refused(&["--max-model-len", "513"]).contains("--max-model-len must be from 2 to 512"));
    assert!(refused(&["--host", "no.such.host.invalid"]).contains("is no address of this machine"));
    let server = Server::with_lambda(&policy, &[]);
    let taken = refused(&["--port", server.port()]);
    assert!(taken.contains("cannot be listened on: choose another --host or --port"), "{taken}");
}
