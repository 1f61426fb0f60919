//! Reading an Arrow stream needs memory for a few of its batches, however many there are; measured in a separate
//! process.

use std::io::Write;
use std::process::Command;
use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator};
use lambda_dpo_abi as abi;
use lambda_dpo_tests::table;
use serde_json::json;

use crate::arrow::{batches, open, to_arrow};

const NUM_BATCHES: &str = "LAMBDA_DPO_TEST_NUM_BATCHES";
const ROWS: usize = 256;
const RESPONSE_BYTES: usize = 10_000;
const MIB: u64 = 1 << 20;

/// A batch of about 5 MB.
fn batch(number: usize) -> RecordBatch {
    let completion = |j: usize| json!({ "response": format!("{number} {j} ").repeat(RESPONSE_BYTES / 4), "annotations": { "a": { "Rating": j.to_string() } } });
    let records: Vec<_> = (0..ROWS)
        .map(|i| json!({ "instruction": i.to_string(), "completions": [completion(0), completion(1)] }))
        .collect();
    batches(&records, ROWS).remove(0)
}

/// Reads a stream of batches, each made when it is requested, to its end as a stream of samples.
fn read(num_batches: usize) {
    let schema = batch(0).schema();
    let stream = RecordBatchIterator::new((0..num_batches).map(|number| Ok(batch(number))), Arc::clone(&schema));
    let mut stream = FFI_ArrowArrayStream::new(Box::new(stream));
    let reader = open(&mut stream, &table::convert_options(abi::FORMAT_ULTRAFEEDBACK)).unwrap();
    let rows: usize = to_arrow(&reader).map(|samples| samples.unwrap().num_rows()).sum();
    assert_eq!(rows, num_batches * ROWS);
}

/// Peak memory of a process that only reads such a stream.
fn peak_bytes(num_batches: usize) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "arrow_memory::does_not_grow_with_the_stream", "--nocapture"])
        .env(NUM_BATCHES, num_batches.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let peak = text.lines().find_map(|line| line.split_once("VmHWM:")).unwrap().1;
    peak.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn does_not_grow_with_the_stream() {
    if let Ok(num_batches) = std::env::var(NUM_BATCHES) {
        read(num_batches.parse().unwrap());
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        writeln!(std::io::stdout(), "{peak}").unwrap();
        return;
    }
    let [few, many] = [4, 24].map(peak_bytes);
    // 20 more batches are 100 MB.
    assert!(many <= few + 24 * MIB, "{} MiB became {} MiB", few / MIB, many / MIB);
}
