//! Memory does not grow with the number of records: `make test-big` shows it for 2 GB, this for a little of that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod trainer;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use lambda_dpo_tests::{fixture, program};
use trainer::Run;

const MIB: u64 = 1 << 20;
/// What a process may take more for four times the records: an index, and the allocator's whims.
const GROWTH: u64 = 24 * MIB;

/// Writes records of some 8 KB each, no two alike, until there are `bytes` of them.
fn write_records(path: &Path, bytes: u64) {
    let demo = fs::read_to_string(fixture("demo/records.jsonl")).unwrap();
    let mut record: Value = serde_json::from_str(demo.lines().nth(2).unwrap()).unwrap();
    let completions = record["completions"].as_array_mut().unwrap();
    assert_eq!(completions.len(), 4);
    for completion in completions {
        let response =
            completion["response"].as_str().unwrap().repeat(2000 / completion["response"].as_str().unwrap().len());
        completion["response"] = json!(response);
    }
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut written = 0;
    for number in 0.. {
        record["instruction"] = json!(format!("What is known about animal {number}?"));
        let line = record.to_string();
        writeln!(file, "{line}").unwrap();
        written += line.len() as u64 + 1;
        if written >= bytes {
            break;
        }
    }
}

/// Runs a command and gives the most memory that it had at once.
fn peak_bytes(command: &mut Command) -> u64 {
    let mut process = command.stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", process.id());
    let mut peak = 0;
    loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(peak);
        if let Some(status) = process.try_wait().unwrap() {
            assert!(status.success());
            assert!(peak > 0);
            return peak * 1024;
        }
        sleep(Duration::from_millis(2));
    }
}

fn assert_steady(what: &str, peaks: [u64; 2]) {
    let [few, many] = peaks.map(|bytes| bytes / MIB);
    assert!(peaks[1] <= peaks[0] + GROWTH, "{what}: {few} MiB became {many} MiB");
}

#[test]
fn conversion_keeps_no_records() {
    let folder = tempfile::tempdir().unwrap();
    let records = folder.path().join("records.jsonl");
    let peaks = [15, 60].map(|mib| {
        write_records(&records, mib * MIB);
        let mut command = program(&folder.path().join("cache"));
        command.arg("convert").arg("--records").arg(&records).arg("--out").arg(folder.path().join("out.jsonl"));
        peak_bytes(&mut command)
    });
    assert_steady("convert", peaks);
}

#[test]
fn tokenisation_keeps_no_records() {
    let run = Run::new("lambda_dpo");
    let peaks = [4, 16].map(|mib| {
        write_records(&run.path("records.jsonl"), mib * MIB);
        let output_dir = format!("output_dir={}", run.path(&format!("run-{mib}")).display());
        // One step, since the epoch would take its time.
        peak_bytes(&mut run.command(&["train.max_steps=1", "reference.kind=none", "data.cutoff_len=64", &output_dir]))
    });
    assert_steady("tokenisation", peaks);
}
