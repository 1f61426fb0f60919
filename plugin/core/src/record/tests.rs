#![expect(clippy::unwrap_used, reason = "tests")]

mod fields;
mod ranked;
mod sources;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};
use indexmap::IndexMap;
use parquet::arrow::ArrowWriter;

use super::reader::RowReader;
use super::*;
use crate::{Format, Result};

fn ratings(annotations: &str) -> IndexMap<String, Rating> {
    let json = format!(r#"{{"instruction":"x","completions":[{{"response":"a","annotations":{annotations}}}]}}"#);
    match Record::parse(&json, Format::UltraFeedback, 0).unwrap().body {
        Body::Rated(mut completions) => completions.remove(0).ratings,
        body => panic!("{body:?}"),
    }
}

fn problem(json: &str, format: Format) -> String {
    Record::parse(json, format, 0).unwrap_err()
}

fn pair(json: &str) -> (Prompt, String, String) {
    let record = Record::parse(json, Format::Pairs, 0).unwrap();
    match record.body {
        Body::Pair { chosen, rejected } => (record.prompt, chosen, rejected),
        body => panic!("{body:?}"),
    }
}

fn messages(turns: &[(&str, &str)]) -> Prompt {
    Prompt::Messages(turns.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

fn read(files: &[(&str, &[u8])], format: Format) -> Vec<std::result::Result<Record, String>> {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.path().join(name)).collect();
    for (path, (_, bytes)) in paths.iter().zip(files) {
        fs::write(path, bytes).unwrap();
    }
    let prefix = format!("{}/", folder.path().display());
    records(&paths, format).map(|record| record.map_err(|error| error.to_string().replace(&prefix, ""))).collect()
}

/// The records of files, up to the first error.
fn records(paths: &[PathBuf], format: Format) -> impl Iterator<Item = Result<Record>> {
    let mut failed = false;
    RowReader::open(paths)
        .unwrap()
        .map(move |row| row?.parse(format))
        .take_while(move |record| !std::mem::replace(&mut failed, record.is_err()))
}

fn last_error(name: &str, text: &str) -> String {
    read(&[(name, text.as_bytes())], Format::Chat).pop().unwrap().unwrap_err()
}

const CHAT: &str = r#"{"messages":[{"role":"user","content":"a"}]}"#;

#[test]
fn ratings_come_as_numbers_and_as_text() {
    let found = ratings(r#"{"a":{"Rating":"4"},"b":{"Rating":4.5},"c":{"Rating":" 3.0 "},"d":5}"#);
    let values: Vec<_> = found.values().cloned().collect();
    assert_eq!(values, [4.0, 4.5, 3.0, 5.0].map(Rating::Value));
}

#[test]
fn missing_ratings_have_a_kind() {
    let kinds = [
        ("{}", "absent"),
        (r#"{"Rating":null}"#, "null"),
        (r#"{"Rating":""}"#, "empty"),
        (r#"{"Rating":"N/A"}"#, "N/A"),
        (r#"{"Rating":"n/a "}"#, "N/A"),
        (r#"{"Rating":"nan"}"#, "nan"),
        (r#"{"Rating":"four"}"#, "text"),
        (r#"{"Rating":true}"#, "boolean"),
        (r#"{"Rating":[4]}"#, "list"),
        (r#"{"Rating":{"x":4}}"#, "object"),
        ("[]", "absent"),
        ("null", "null"),
    ];
    for (annotation, kind) in kinds {
        assert_eq!(ratings(&format!(r#"{{"a":{annotation}}}"#))["a"], Rating::Missing(kind), "{annotation}");
    }
}

#[test]
fn older_annotations_are_lists() {
    let found = ratings(r#"[{"Type":"honesty","Rating":"2"},{"Type":"truthfulness","Rating":"N/A"}]"#);
    assert_eq!(found["honesty"], Rating::Value(2.0));
    assert_eq!(found["truthfulness"], Rating::Missing("N/A"));
    let found = ratings(
        r#"{"truthfulness":[{"Type":["1"],"Rating":"N/A"},{"Type":["2"],"Rating":"5"}],"h":{"Type":["1"],"Rating":"3"}}"#,
    );
    assert_eq!(found["truthfulness"], Rating::Value(5.0));
    assert_eq!(found["h"], Rating::Value(3.0));
}

#[test]
fn unrated_completions_are_records() {
    assert!(ratings("null").is_empty());
    let json = r#"{"prompt":[{"role":"user","content":"x"}],"completions":[{"response":"a"}],"source":"s"}"#;
    let record = Record::parse(json, Format::UltraFeedback, 7).unwrap();
    assert_eq!((record.index, record.source.as_deref()), (7, Some("s")));
    assert_eq!(record.prompt, messages(&[("user", "x")]));
}

#[test]
fn problems_name_the_field_and_what_was_expected() {
    let cases = [
        (r#"{"instruction":"x"}"#, "`completions` is missing: expected a list of {response, annotations} objects"),
        (r#"{"completions":"x"}"#, "`completions` is text: expected a list of {response, annotations} objects"),
        (r#"{"completions":[]}"#, "`instruction` is missing: expected text"),
        (
            r#"{"instruction":1,"completions":[]}"#,
            "`instruction` is a number: expected text or a list of {role, content} objects",
        ),
        (
            r#"{"instruction":"x","completions":["a"]}"#,
            "`completions[0]` is text: expected an object {response, annotations}",
        ),
        (
            r#"{"instruction":"x","completions":[{"response":"a"},{"text":"b"}]}"#,
            "`completions[1].response` is missing: expected text",
        ),
        (
            r#"{"instruction":"x","completions":[{"response":null}]}"#,
            "`completions[0].response` is null: expected text",
        ),
        (
            r#"{"instruction":"x","completions":[{"response":"a","annotations":"good"}]}"#,
            "`completions[0].annotations` is text: expected an object by dimension, or a list of {Type, Rating}",
        ),
        (
            r#"{"instruction":"x","completions":[{"response":"a","annotations":[{"Rating":"1"}]}]}"#,
            "`completions[0].annotations[0].Type` is missing: expected the dimension's name",
        ),
        ("[1]", "the record is a list: expected an object"),
        (
            r#"{"prompt":"x","chosen":"a","rejected":"b"}"#,
            "`completions` is missing: expected a list of {response, annotations} objects; the record has `chosen`: set the format to `pairs`",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(problem(json, Format::UltraFeedback), expected, "{json}");
    }
}

#[test]
fn invalid_json_is_reported_with_its_column() {
    assert_eq!(problem(r#"{"a": 1 "b"}"#, Format::Chat), "not valid JSON: expected `,` or `}` at column 9");
    assert_eq!(
        problem(r#"{"a": [1,"#, Format::Chat),
        "not valid JSON: EOF while parsing a value at column 9; in JSON lines each record is on one line"
    );
}

#[test]
fn deep_nesting_is_an_error() {
    let json = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let json = format!(r#"{{"messages":{json}}}"#);
    assert_eq!(problem(&json, Format::Chat), "not valid JSON: recursion limit exceeded at column 139");
    let array = read(&[("x.json", format!("[{json}]").as_bytes())], Format::Chat);
    assert_eq!(
        array,
        [Err("x.json, record 1: not valid JSON: recursion limit exceeded at line 1, column 140".to_owned())]
    );
}

#[test]
fn pairs_come_in_many_shapes() {
    let text = Prompt::Text("x".into());
    let one_turn = messages(&[("user", "x")]);
    let cases = [
        (r#"{"prompt":"x","chosen":"a","rejected":"b"}"#, text.clone()),
        (r#"{"prompt":[{"role":"user","content":"x"}],"chosen":"a","rejected":"b"}"#, one_turn.clone()),
        (
            r#"{"prompt":"x","chosen":[{"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"b"}]}"#,
            text.clone(),
        ),
        (
            r#"{"prompt":"x","chosen":[{"role":"user","content":"x"},{"role":"assistant","content":"a"}],
                "rejected":[{"role":"user","content":"x"},{"role":"assistant","content":"b"}]}"#,
            one_turn.clone(),
        ),
        (
            r#"{"chosen":[{"role":"system","content":"s"},{"role":"user","content":"x"},{"role":"assistant","content":"a"}],
                "rejected":[{"role":"system","content":"s"},{"role":"user","content":"x"},{"role":"assistant","content":"b"}]}"#,
            messages(&[("system", "s"), ("user", "x")]),
        ),
        (
            r#"{"prompt":[{"role":"user","content":"x"}],"chosen":[{"role":"assistant","content":"1"},{"role":"user","content":"2"},
                {"role":"assistant","content":"a"}],"rejected":[{"role":"assistant","content":"1"},{"role":"user","content":"2"},
                {"role":"assistant","content":"b"}]}"#,
            messages(&[("user", "x"), ("assistant", "1"), ("user", "2")]),
        ),
        (
            r#"{"conversations":[{"from":"human","value":"x"}],"system":"s","chosen":{"from":"gpt","value":"a"},
                "rejected":{"from":"gpt","value":"b"}}"#,
            messages(&[("system", "s"), ("user", "x")]),
        ),
    ];
    for (json, prompt) in cases {
        assert_eq!(pair(json), (prompt, "a".to_owned(), "b".to_owned()), "{json}");
    }
}

#[test]
fn pairs_that_make_no_sense_are_rejected() {
    let cases = [
        (
            r#"{"prompt":"x","chosen":"a"}"#,
            "`rejected` is missing: expected text, a message, or a list of {role, content} objects",
        ),
        (r#"{"chosen":"a","rejected":"b"}"#, "`prompt` is missing: expected text or a list of {role, content} objects"),
        (
            r#"{"prompt":"x","chosen":[{"role":"user","content":"a"}],"rejected":"b"}"#,
            "`chosen` ends with a \"user\" turn: expected an assistant turn",
        ),
        (
            r#"{"prompt":"x","chosen":[],"rejected":"b"}"#,
            "`chosen` is empty: expected a list of {role, content} objects",
        ),
        (
            r#"{"chosen":[{"role":"user","content":"1"},{"role":"assistant","content":"a"}],
                "rejected":[{"role":"user","content":"2"},{"role":"assistant","content":"b"}]}"#,
            "`chosen` and `rejected` differ before their last turn: expected conversations that share every turn but the last",
        ),
        (
            r#"{"conversations":[{"from":"robot","value":"x"}],"chosen":"a","rejected":"b"}"#,
            "`conversations[0].from` is \"robot\": expected human, gpt, system or observation",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(problem(json, Format::Pairs), expected, "{json}");
    }
}

#[test]
fn chats_come_in_two_shapes() {
    let turns = messages(&[("system", "s"), ("user", "x"), ("assistant", "y")]);
    for json in [
        r#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"assistant","content":"y"}]}"#,
        r#"{"conversations":[{"from":"human","value":"x"},{"from":"gpt","value":"y"}],"system":"s"}"#,
    ] {
        let record = Record::parse(json, Format::Chat, 0).unwrap();
        assert_eq!((record.prompt, record.body), (turns.clone(), Body::Conversation));
    }
    let cases = [
        ("{}", "`messages` is missing: expected a list of {role, content} objects"),
        (r#"{"messages":[]}"#, "`messages` is empty: expected a list of {role, content} objects"),
        (r#"{"messages":[{"role":"user"}]}"#, "`messages[0].content` is missing: expected text"),
        (r#"{"messages":[{"content":"x"}]}"#, "`messages[0].role` is missing: expected text"),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image"}]}]}"#,
            "`messages[0].content[0]` has no `text`: only parts of type text are supported",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(problem(json, Format::Chat), expected, "{json}");
    }
}

#[test]
fn files_of_all_formats_are_read_in_order() {
    let lines = format!("\u{feff}{CHAT}\r\n\n   \n{CHAT}");
    let array = format!("\u{feff} [\n  {CHAT},{CHAT}\n , {}]\n", CHAT.replace(r#""a""#, r#""],{\"""#));
    let records =
        read(&[("a.jsonl", lines.as_bytes()), ("b.json", array.as_bytes()), ("c", b"[]"), ("d", b"")], Format::Chat);
    let indices: Vec<u64> = records.iter().map(|record| record.as_ref().unwrap().index).collect();
    assert_eq!(indices, [0, 1, 2, 3, 4]);
    assert_eq!(records[4].as_ref().unwrap().prompt, messages(&[("user", "],{\"")]));
}

#[test]
fn bad_lines_are_named() {
    let lines = |bad: &str| format!("{CHAT}\n\n{bad}\n{CHAT}\n");
    assert_eq!(
        last_error("x.jsonl", &lines(r#"{"messages": 1 2}"#)),
        "x.jsonl, line 3: not valid JSON: expected `,` or `}` at column 16"
    );
    assert_eq!(
        last_error("x.jsonl", &lines("{}")),
        "x.jsonl, line 3: `messages` is missing: expected a list of {role, content} objects"
    );
    let records = read(&[("x.jsonl", b"{\"a\": \"\xff\"}\n")], Format::Chat);
    assert_eq!(records, [Err("x.jsonl, line 1: not valid UTF-8 at byte 8".to_owned())]);
}

#[test]
fn bad_arrays_are_named() {
    let cases = [
        (
            format!("[{CHAT},\n {{\"a\": 1 2}}]"),
            "x.json, record 2: not valid JSON: expected `,` or `}` at line 2, column 10",
        ),
        (
            format!("[{CHAT}, {{\n\"a\":\n1 2}}]"),
            "x.json, record 2: not valid JSON: expected `,` or `}` at line 3, column 3",
        ),
        (
            format!("[{CHAT}"),
            "x.json, record 1: the file ends inside this record: it was cut short, or a quote or bracket is missing",
        ),
        (
            format!("[{CHAT},"),
            "x.json, record 2: the file ends inside this record: it was cut short, or a quote or bracket is missing",
        ),
        (format!("[{CHAT}] x"), "x.json, record 1: text follows the array's closing `]`"),
        (format!("[{CHAT},]"), "x.json, record 2: not valid JSON: EOF while parsing a value at line 1, column 47"),
        ("[1]".to_owned(), "x.json, record 1: the record is a number: expected an object"),
    ];
    for (text, expected) in cases {
        assert_eq!(last_error("x.json", &text), expected, "{text}");
    }
}

#[test]
fn paths_that_are_not_files_are_named() {
    let missing = PathBuf::from("no/such/file.jsonl");
    let error = RowReader::open(&[missing]).unwrap_err();
    assert_eq!(error.to_string(), "no/such/file.jsonl: there is no such file");
    let folder = tempfile::tempdir().unwrap();
    let error = RowReader::open(&[folder.path().to_owned()]).unwrap_err();
    assert!(error.to_string().ends_with(": this is a folder; name the record files in it"), "{error}");
}

/// 600 rows in several batches, as a dataset library writes them.
fn write_parquet(path: &Path) {
    let structure = |fields: Vec<Field>| DataType::Struct(Fields::from(fields));
    let rating = structure(vec![Field::new("Rating", DataType::Float64, true)]);
    let annotations = structure(vec![Field::new("help", rating, true)]);
    let completion =
        structure(vec![Field::new("response", DataType::Utf8, true), Field::new("annotations", annotations, true)]);
    let completions = DataType::List(Arc::new(Field::new("item", completion, true)));
    let schema = Arc::new(Schema::new(vec![
        Field::new("instruction", DataType::LargeUtf8, true),
        Field::new("completions", completions, true),
    ]));
    let rows: String = (0..600)
        .map(|i| {
            format!(
                r#"{{"instruction":"question {i}","completions":[{{"response":"a","annotations":{{"help":{{"Rating":1.5}}}}}},
                {{"response":"b","annotations":{{"help":{{"Rating":null}}}}}}]}}"#
            )
        })
        .collect();
    let batches = arrow_json::ReaderBuilder::new(Arc::clone(&schema)).build(rows.as_bytes()).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), schema, None).unwrap();
    for batch in batches {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_rows_are_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write_parquet(&path);
    let found: Vec<Record> = records(std::slice::from_ref(&path), Format::UltraFeedback).map(|r| r.unwrap()).collect();
    assert_eq!(found.len(), 600);
    assert_eq!(found[599].prompt, Prompt::Text("question 599".into()));
    let Body::Rated(completions) = &found[0].body else { panic!() };
    assert_eq!(completions[0].ratings["help"], Rating::Value(1.5));
    assert_eq!(completions[1].ratings["help"], Rating::Missing("null"));

    let error = records(std::slice::from_ref(&path), Format::Chat).last().unwrap().unwrap_err().to_string();
    assert!(error.contains("x.parquet, record 1: `messages` is missing"), "{error}");
    fs::write(&path, b"PAR1 and then nothing").unwrap();
    let error = RowReader::open(&[path]).unwrap_err().to_string();
    assert!(error.contains("x.parquet: not a Parquet file that can be read: "), "{error}");
}
