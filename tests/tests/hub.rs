//! The Hugging Face cache, filled by processes beside each other and after kills, from a hub on this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use lambda_dpo_tests::trainer::{Run, stderr};
use lambda_dpo_tests::{fixture, program};

const NAME: &str = "owner/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files of a model, each after a pause; returns the address. Its thread ends with the test process.
fn serve(model: &Path, pause: Duration) -> String {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    let files: BTreeMap<_, _> = fs::read_dir(model).unwrap().map(|entry| read(entry.unwrap())).collect();
    let files = Arc::new(files);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let files = Arc::clone(&files);
            // A client that goes away ends only its own connection.
            std::thread::spawn(move || answer(&stream.unwrap(), &files, pause));
        }
    });
    address
}

/// Answers one request, and closes the connection.
fn answer(mut stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>, pause: Duration) -> Option<()> {
    let mut head = Vec::new();
    for line in BufReader::new(stream).lines() {
        match line.ok()? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let path = head[0].split(' ').nth(1)?;
    let (status, headers, body): (_, _, &[u8]) = if path.starts_with("/api/") {
        let names: Vec<_> = files.keys().map(|name| format!("{{\"rfilename\": \"{name}\"}}")).collect();
        let info = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", names.join(", "));
        ("200 OK", String::new(), &info.into_bytes().leak()[..])
    } else {
        let (name, content) = files.get_key_value(path.rsplit('/').next()?)?;
        let range =
            head.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned))?;
        let (start, end) = range.split_once('-')?;
        let start: usize = start.parse().ok()?;
        let end = end.parse().map_or(content.len(), |last: usize| last + 1).min(content.len());
        if start >= content.len() {
            ("416 Range Not Satisfiable", String::new(), &[][..])
        } else {
            if end - start > 1 {
                sleep(pause);
            }
            let headers = format!(
                "Content-Range: bytes {start}-{}/{}\r\nETag: \"etag-of-{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
                end - 1,
                content.len(),
                name.replace('.', "-")
            );
            ("206 Partial Content", headers, &content[start..end])
        }
    };
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n").ok()?;
    stream.write_all(body).ok()
}

/// A folder with a hub cache, and a command that scores a record with the model by its name.
struct Client {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Client {
    fn new(endpoint: String) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), endpoint }
    }

    fn score(&self, out: &str) -> Command {
        let records = self.folder.path().join("one.jsonl");
        let text = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
        fs::write(&records, text.lines().next().unwrap()).unwrap();
        let mut command = program(&self.folder.path().join("cache"));
        command.args(["score", "--device", "cpu", "--model", NAME, "--records"]).arg(records);
        command.arg("--out").arg(self.folder.path().join(out));
        command.env("HF_HOME", self.folder.path()).env("HF_ENDPOINT", &self.endpoint).env("HF_HUB_OFFLINE", "0");
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE"] {
            command.env_remove(name);
        }
        command.stderr(Stdio::piped());
        command
    }

    fn blobs(&self) -> PathBuf {
        self.folder.path().join("hub/models--owner--tiny/blobs")
    }
}

#[test]
fn a_process_waits_for_another_that_fetches_the_same_model() {
    let run = Run::new("sft");
    // Together longer than hf-hub itself would wait for its lock.
    let client = Client::new(serve(&run.path("model"), Duration::from_secs(2)));
    let first = client.score("first.jsonl").spawn().unwrap();
    while !client.blobs().exists() {
        sleep(Duration::from_millis(5));
    }
    let second = client.score("second.jsonl").output().unwrap();
    let text = stderr(&second);
    assert!(second.status.success(), "{text}");
    assert!(text.contains(&format!("{NAME}: waiting for process {}, which fetches it", first.id())), "{text}");
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", stderr(&first));
    let [first, second] =
        ["first", "second"].map(|name| fs::read(client.folder.path().join(name).with_extension("jsonl")));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[test]
fn a_download_that_was_killed_after_its_last_byte_is_finished() {
    let run = Run::new("sft");
    let client = Client::new(serve(&run.path("model"), Duration::ZERO));
    fs::create_dir_all(client.blobs()).unwrap();
    // As hf-hub leaves them: one whole, one in part.
    let config = fs::read(run.path("model/config.json")).unwrap();
    fs::write(client.blobs().join("etag-of-config-json.part"), &config).unwrap();
    let weights = fs::read(run.path("model/model.safetensors")).unwrap();
    fs::write(client.blobs().join("etag-of-model-safetensors.part"), &weights[..1000]).unwrap();
    let output = client.score("out.jsonl").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read(client.blobs().join("etag-of-config-json")).unwrap(), config);
    assert_eq!(fs::read(client.blobs().join("etag-of-model-safetensors")).unwrap(), weights);
}
