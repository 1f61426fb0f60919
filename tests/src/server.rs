//! A running server, and HTTP as a client of any behaviour speaks it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::exports::Policy;
use crate::program;

/// Longest wait for anything that a server does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server of the program, which is killed when it is dropped.
pub struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
}

impl Server {
    /// Serves the λ-adapter of a policy, under the name `m`.
    pub fn with_lambda(policy: &Policy, arguments: &[&str]) -> Self {
        let adapter = policy.text("adapter");
        Self::start(policy, &[&["--adapter", &adapter], arguments].concat())
    }

    /// Serves the model of a policy under the name `m` on a free port, and waits until it listens.
    pub fn start(policy: &Policy, arguments: &[&str]) -> Self {
        let mut command = program(&policy.path("cache"));
        command.args(["serve", "--device", "cpu", "--port", "0", "--name", "m", "--model", &policy.text("model")]);
        Self::spawn(command.args(arguments))
    }

    /// Starts a command, and waits until it listens.
    pub fn spawn(command: &mut Command) -> Self {
        // One thread, so that sums are rounded as in the tests' own process.
        let mut child = command.env("OMP_NUM_THREADS", "1").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let mut address = None;
        while address.is_none() {
            let line = lines.next().unwrap_or_else(|| panic!("the server ended: {}", log.lock().unwrap())).unwrap();
            address = line.strip_prefix("listening on http://").map(str::to_owned);
            *log.lock().unwrap() += &(line + "\n");
        }
        let rest = Arc::clone(&log);
        thread::spawn(move || lines.map_while(Result::ok).for_each(|line| *rest.lock().unwrap() += &(line + "\n")));
        Self { child, address: address.unwrap(), log }
    }

    /// What the server has written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Opens a connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The port.
    pub fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }

    /// Opens a connection and sends a request whose body is JSON, with more headers in `headers`, each with its line end.
    pub fn open(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{headers}\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        // The server may answer, and close, before it has read everything.
        let _ = stream.write_all(&request);
        stream
    }

    /// Sends a request whose body is JSON; returns the reply.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        Reply::read(&mut self.open(method, path, headers, body))
    }

    /// Fetches a path.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", b"")
    }

    /// Posts JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, "", body.to_string().as_bytes())
    }

    /// Posts JSON, which must be answered by 200 and JSON.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/json"));
        reply.json()
    }

    /// Posts JSON, which must be refused with `status`; returns the error.
    pub fn refuse(&self, path: &str, body: &Value, status: u16) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, status, "{body}: {}", reply.text());
        reply.json()["error"].clone()
    }

    /// A value of `/metrics`, by name and labels as they are written there; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or(0.0)
    }

    /// Waits until a metric has a value.
    pub fn wait_for(&self, name: &str, is_there: impl Fn(f64) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_there(self.metric(name)) {
            assert!(Instant::now() < end, "{name} is {}:\n{}", self.metric(name), self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the server does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server replied.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status; 0 if the connection ended without a reply.
    pub status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// Reads a reply to its end.
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        // What has arrived counts even if the connection was then reset.
        let _ = stream.read_to_end(&mut bytes);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Self { status: 0, headers: Vec::new(), body: bytes };
        };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut body = bytes.split_off(end + 4);
        if headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked") {
            body = without_chunks(&body);
        }
        Self { status, headers, body }
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The objects of a stream of events, which must end with `[DONE]`.
    pub fn events(&self) -> Vec<Value> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")), "{}", self.text());
        let text = self.text();
        let mut events: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(events.pop(), Some(""), "{text}");
        assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
        events.iter().map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

/// Joins the chunks of a body, as far as they came.
fn without_chunks(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunked.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&chunked[..end]).unwrap(), 16).unwrap();
        let rest = &chunked[end + 2..];
        let size = size.min(rest.len());
        body.extend_from_slice(&rest[..size]);
        chunked = rest.get(size + 2..).unwrap_or_default();
    }
    body
}
