//! HTTP: any bytes sent to a server that runs in this process, with a tiny model and a λ-adapter. An input that begins with
//! `{` is the body of a request for a chat, one with ` {` that of a completion; everything else is sent as it is. The server
//! must answer or hang up, never with the status of a defect.
#![no_main]
#![expect(clippy::expect_used, reason = "a target cannot go on without its files")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use lambda_dpo_fuzz::tiny;
use lambda_dpo_host::plugin::Plugin;
use lambda_dpo_host::serve::{Address, ServeOptions, Served, serve};
use libfuzzer_sys::fuzz_target;

/// Longer than any answer takes, even on a machine that is busy: it is at most 64 tokens of a model with one layer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a client that may have sent half a request waits before it hangs up. Most answers need less.
const IMPATIENCE: Duration = Duration::from_millis(20);

static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    thread::spawn(move || {
        let plugin = std::env::var_os("LAMBDA_DPO_PLUGIN").expect("LAMBDA_DPO_PLUGIN names the library");
        let plugin = Plugin::load(Some(Path::new(&plugin))).expect("the library");
        let words = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/words");
        let tokenizer = plugin.tokenizer(Path::new(words), None).expect("the tokenizer");
        let mut model = tiny::model();
        model.add_lora(&tiny::lambda_lora(), 1).expect("an adapter");
        model.freeze();
        model.free_lambda();
        let options = ServeOptions {
            name: "m".into(),
            api_key: None,
            max_batch_size: 4,
            max_queue: 4,
            max_model_len: None,
            client_timeout: Duration::from_secs(1),
        };
        let address = Address::take("127.0.0.1", free.port()).expect("the port");
        serve(Served { model, tokenizer, eos_token_ids: vec![4] }, address, &options).expect("a server");
        panic!("the server has ended");
    });
    while TcpStream::connect(free).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    free
});

/// A request of a path with a body that is JSON, or is not.
fn framed(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /v1/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends bytes and returns what comes back until the server hangs up. After `patience`, the client hangs up its side, which
/// the server takes for a client that has left.
fn answer(request: &[u8], patience: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(*SERVER).expect("the server accepts connections");
    stream.set_read_timeout(Some(patience)).expect("a socket");
    stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
    // The server may hang up before it has read everything.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let is_late = |read: std::io::Result<usize>| {
        read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    };
    if is_late(stream.read_to_end(&mut answer)) {
        assert!(patience < PATIENCE, "the server neither answers nor hangs up");
        let _ = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        assert!(!is_late(stream.read_to_end(&mut answer)), "the server does not hang up");
    }
    answer
}

fuzz_target!(|data: &[u8]| {
    let answer = match data {
        [b'{', ..] => answer(&framed("chat/completions", data), PATIENCE),
        [b' ', body @ ..] if body.starts_with(b"{") => answer(&framed("completions", body), PATIENCE),
        _ => answer(data, IMPATIENCE),
    };
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is not HTTP");
    let is_defect = answer.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"HTTP/1.1 500"));
    assert!(!is_defect, "{}", String::from_utf8_lossy(&answer));
});
