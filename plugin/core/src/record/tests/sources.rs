//! Compressed files are read, and foreign ones named.

use std::io::Write;

use super::{CHAT, read};
use crate::Format;

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn only_error(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let prefix = format!("{}/", folder.path().display());
    let opened = super::RowReader::open(&[path]);
    let error = match opened {
        Err(error) => error,
        Ok(rows) => rows.map(|row| row?.parse(Format::Chat)).find_map(Result::err).unwrap(),
    };
    error.to_string().replace(&prefix, "")
}

#[test]
fn compressed_files_are_read() {
    let lines = format!("{CHAT}\n{CHAT}\n");
    let array = format!("\u{feff}[{CHAT},\n{CHAT}]");
    let members = [gzip(&format!("{CHAT}\n")), gzip(&format!("{CHAT}\n"))].concat();
    let zstd = |text: &str| zstd::stream::encode_all(text.as_bytes(), 0).unwrap();
    let files = [gzip(&lines), gzip(&array), members, zstd(&lines), zstd(&array)];
    for (i, bytes) in files.iter().enumerate() {
        let records = read(&[("x.jsonl.gz", bytes)], Format::Chat);
        assert_eq!(records.len(), 2, "{i}");
        assert!(records.iter().all(Result::is_ok), "{i}: {records:?}");
    }
    let gz = gzip(&lines.repeat(100));
    let error = only_error("x.gz", &gz[..gz.len() / 2]);
    assert!(error.starts_with("x.gz: the gzip data is damaged or cut short: "), "{error}");
}

#[test]
fn foreign_files_are_named_with_a_way_out() {
    let cases: [(&str, &[u8], &str); 11] = [
        ("x.zip", b"PK\x03\x04rest", "x.zip is a zip archive: unpack it and name the files in it"),
        (
            "x.jsonl",
            b"\xFD7zXZ\0rest",
            "x.jsonl is compressed with xz: decompress it (unxz), or compress it with gzip or zstd",
        ),
        ("x.jsonl", b"BZh91AY", "x.jsonl is compressed with bzip2: "),
        ("x.arrow", b"ARROW1\0\0", "x.arrow is an Arrow file: write it as Parquet"),
        ("x.arrow", b"\xFF\xFF\xFF\xFF\x10\0", "x.arrow is an Arrow stream: write it as Parquet"),
        ("x.jsonl", b"\xFF\xFE{\0}\0", "x.jsonl is UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)"),
        ("x.parquet", b"\n<!DOCTYPE html><html>", "x.parquet is an HTML page, not the file itself: download it again"),
        ("x.jsonl", b"<html>", "x.jsonl is an HTML page"),
        (
            "x.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "x.parquet is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
        ),
        (
            "x.csv",
            b"prompt,chosen\na,b\n",
            "x.csv is a table of comma-separated values: write it as JSON lines or Parquet",
        ),
        ("x.db", b"SQLite format 3\0", "x.db is an SQLite database: "),
    ];
    for (name, bytes, expected) in cases {
        let error = only_error(name, bytes);
        assert!(error.starts_with(expected), "{error}");
    }
    let inside = gzip("PAR1 and so on");
    assert_eq!(
        only_error("x.gz", &inside),
        "x.gz is compressed with gzip, and a Parquet file inside: decompress it first"
    );
    assert_eq!(read(&[("x.csv", CHAT.as_bytes())], Format::Chat).len(), 1);
}

#[test]
fn a_line_with_half_a_character_is_named() {
    let lines = format!("{CHAT}\n{{\"messages\": \"\\ud83d\"}}\n");
    let error = read(&[("x.jsonl", lines.as_bytes())], Format::Chat).pop().unwrap().unwrap_err();
    assert!(error.starts_with("x.jsonl, line 2: not valid JSON: `\\ud83d` is a lone surrogate"), "{error}");
}
