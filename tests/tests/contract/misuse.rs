//! Misuse by a caller: impossible counts and values, text of any depth and size, a callback that cancels.
//! NULLs, sizes, handles, tensors and the loss's inputs have their own files.

use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::table::{self, Handle, api, checked};

pub const RECORD: &str = r#"{"instruction": "hi", "completions": [
    {"response": "one", "annotations": {"a": {"Rating": 5}}}, {"response": "two", "annotations": {"a": {"Rating": 1}}}]}"#;

/// Results of earlier calls that the tested calls need.
pub struct Given {
    pub tokenizer: Handle<abi::Tokenizer>,
    pub sample: String,
    pub tokenized: Handle<abi::TokenizedSample>,
    pub convert: abi::ConvertOptions,
    pub tokenize: abi::TokenizeOptions,
    pub collate: abi::CollateOptions,
    pub records: tempfile::NamedTempFile,
}

impl Given {
    pub fn new() -> Self {
        let tokenizer = table::tokenizer_open(&fixture("words")).unwrap();
        let convert = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
        let sample = table::convert_record(RECORD, 0, &convert).unwrap().unwrap();
        let tokenize = table::tokenize_options();
        let tokenized = table::tokenize(&tokenizer, &sample, &tokenize).unwrap().unwrap();
        let records = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(records.path(), RECORD.replace('\n', " ")).unwrap();
        let collate = table::collate_options(abi::LAYOUT_PACKED);
        Self { tokenizer, sample, tokenized, convert, tokenize, collate, records }
    }

    pub fn path(&self) -> abi::Str {
        table::text(self.records.path().to_str().unwrap())
    }

    pub fn dataset_options(&self) -> abi::DatasetOptions {
        // SAFETY: zero is valid for the other fields.
        unsafe { abi::DatasetOptions { convert: &self.convert, tokenize: &self.tokenize, ..table::sized() } }
    }
}

#[test]
fn a_misaligned_struct_is_refused() {
    let room = [0_u64; 32];
    // SAFETY: the pointer is inside the array; the plugin must not read it.
    let options = unsafe { room.as_ptr().cast::<u8>().add(1) }.cast::<abi::ConvertOptions>();
    let mut bytes = table::no_bytes();
    // SAFETY: as above.
    let result = checked(|e| unsafe { (api().convert_record)(table::text(RECORD), 0, options, &mut bytes, e) });
    assert_eq!(result.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, "argument `options` is not aligned".to_owned()));
}

#[test]
fn values_of_later_versions_are_refused() {
    let refused = |options: &abi::ConvertOptions, message: &str| {
        let result = table::convert_record(RECORD, 0, options).unwrap_err();
        assert_eq!(result, (abi::STATUS_INVALID_ARGUMENT, message.to_owned()));
    };
    refused(&table::convert_options(4), "`format` is 4, expected 0, 1, 2 or 3");
    refused(&abi::ConvertOptions { keep_all: 2, ..options() }, "`keep_all` is 2, expected 0 or 1");
    refused(&abi::ConvertOptions { reserved: 1, ..options() }, "`reserved` is 1, expected 0");
}

#[test]
fn a_decode_stream_refuses_what_is_no_token_and_goes_on() {
    let given = Given::new();
    let refused = |problem: &str| (abi::STATUS_INVALID_ARGUMENT, problem.to_owned());
    let flag = table::decode_stream(&given.tokenizer, 2).unwrap_err();
    assert_eq!(flag, refused("`skip_special_tokens` is 2, expected 0 or 1"));
    let stream = table::decode_stream(&given.tokenizer, 1).unwrap();
    assert_eq!(table::decode_step(&stream, 5).unwrap().unwrap(), "what");
    assert_eq!(table::decode_step(&stream, -1).unwrap_err(), refused("-1 is not a token id"));
    assert_eq!(table::decode_step(&stream, i64::MAX).unwrap_err().0, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(table::decode_step(&stream, 1 << 20).unwrap(), None, "decodes to nothing, as in tokenizer_decode");
    assert_eq!(table::decode_step(&stream, 6).unwrap().unwrap(), " colour");
    assert_eq!(table::decode_finish(&stream).unwrap(), None);
    assert_eq!(table::decode_finish(&stream).unwrap(), None);
    assert_eq!(table::decode_step(&stream, 6).unwrap().unwrap(), "colour", "a new text");
}

#[test]
fn inconsistent_tokens_are_refused() {
    let tokens = |responses: &str, indices: &str, targets: &str| {
        format!(
            r#"{{"record":7,"prompt_ids":[1,2],"response_ids":{responses},"response_indices":{indices},"pi_target":{targets}}}"#
        )
    };
    table::tokenized(&tokens("[[3],[4]]", "[0,1]", "[[0.5,0.5]]")).unwrap();
    for (tokens, problem) in [
        (tokens("[[3],[4]]", "[0]", "[[0.5,0.5]]"), "record 7: `response_indices` has 1 numbers for 2 responses"),
        (tokens("[[3],[-4]]", "[0,1]", "[[0.5,0.5]]"), "record 7: -4 is not a token id"),
        (tokens("[[3],[4]]", "[0,1]", "[[0.5]]"), "record 7: `pi_target[0]` has 1 numbers for 2 responses"),
        (tokens("[[3],[4]]", "[0,1]", "[[0.5,0.6]]"), "record 7: `pi_target[0]` sums to 1.1: a distribution sums to 1"),
        (
            tokens("[[3],[4]]", "[0,1]", "[[0.5,0.5]],\"ranks\":[[1,0]]"),
            "record 7: `ranks[0][1]` is 0, but `pi_target[0][1]` is not null: only what is masked has no rank",
        ),
        (
            tokens("[[3],[4]]", "[0,1]", "[[0.5,0.5]],\"ranks\":[[1,3]]"),
            "record 7: `ranks[0]` has no 2: places are numbered from 1 without gaps, and equal ones tie",
        ),
    ] {
        let (status, message) = table::tokenized(&tokens).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert_eq!(message, format!("not a valid tokenised sample: {problem}"));
    }
}

const DEPTH: usize = 10_000;
const LONG_BYTES: usize = 100 << 20;

/// JSON of 10,000 levels is an error wherever JSON is accepted, and the library can be used afterwards.
#[test]
fn deeply_nested_text_is_an_error() {
    let given = Given::new();
    for open in ["[", "{\"a\":"] {
        let (status, message) = table::convert_record(&open.repeat(DEPTH), 0, &given.convert).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert!(message.starts_with("record 0: not valid JSON: recursion limit exceeded"), "{message}");
    }
    let nested = format!("{}1{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let deep = RECORD.replace('5', &nested);
    assert_eq!(table::convert_record(&deep, 0, &given.convert).unwrap_err().0, abi::STATUS_INVALID_DATA);

    let sample = given.sample.replacen("\"hi\"", &nested, 1);
    assert_ne!(sample, given.sample);
    let (status, message) = table::tokenize(&given.tokenizer, &sample, &given.tokenize).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_DATA);
    assert!(message.contains("recursion limit exceeded"), "{message}");
    let tokens = format!(r#"{{"record":0,"prompt_ids":{nested}}}"#);
    assert_eq!(table::tokenized(&tokens).unwrap_err().0, abi::STATUS_INVALID_DATA);
    let messages = format!(r#"[{{"role": "user", "content": {nested}}}]"#);
    let (status, message) = render(&given, &messages).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert!(message.starts_with("`messages` is not a JSON list of {role, content}: "), "{message}");

    // In a tokenizer's files as well, and for a template as deep.
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(fixture("words").join(name), folder.path().join(name)).unwrap();
    let status_of_opening = || table::tokenizer_open(folder.path()).map(drop).map_err(|(status, _)| status);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        copy("tokenizer.json");
        std::fs::write(folder.path().join(name), &nested).unwrap();
        assert_eq!(status_of_opening(), Err(abi::STATUS_INVALID_DATA), "{name}");
    }
    copy("tokenizer.json");
    copy("tokenizer_config.json");
    assert_eq!(status_of_opening(), Ok(()));
    std::fs::write(folder.path().join("chat_template.jinja"), format!("{{{{ {}1 }}}}", "(".repeat(DEPTH))).unwrap();
    assert_eq!(status_of_opening(), Err(abi::STATUS_INVALID_DATA));
}

/// A text of 100 MB is handled wherever text is accepted.
#[test]
fn text_of_any_size_is_handled() {
    let given = Given::new();
    let long = "x".repeat(LONG_BYTES);
    let sample = table::convert_record(&RECORD.replace("one", &long), 0, &given.convert).unwrap().unwrap();
    assert!(sample.len() > long.len());
    // The long response is one unknown word and an end-of-turn token.
    let tokenized = table::tokenize(&given.tokenizer, &sample, &given.tokenize).unwrap().unwrap();
    let batch = table::collate(&[tokenized], &[1.0], &given.collate).unwrap();
    assert!(batch.0.iter().any(|(name, lengths)| *name == "sequence_num_tokens" && lengths.size() == [2]));
    let (status, _) = table::convert_record(&long, 0, &given.convert).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_DATA);
    let rendered = render(&given, &format!(r#"[{{"role": "user", "content": "{long}"}}]"#)).unwrap();
    assert!(rendered.contains(&long));

    let with_nul = RECORD.replace("one", "a\\u0000b");
    let sample = table::convert_record(&with_nul, 0, &given.convert).unwrap().unwrap();
    assert!(sample.contains("a\\u0000b"), "{sample}");
}

/// `tokenizer_render`.
fn render(given: &Given, messages: &str) -> Result<String, table::Failure> {
    let mut text = table::no_bytes();
    // SAFETY: all pointers are valid.
    checked(|e| unsafe { (api().tokenizer_render)(given.tokenizer.raw(), table::text(messages), 1, &mut text, e) })?;
    Ok(table::take_text(text).unwrap())
}

/// Bytes that are not UTF-8 are refused with the name of the argument wherever text is accepted.
#[test]
fn text_that_is_not_utf_8_is_refused() {
    let (given, api) = (Given::new(), api());
    let bad = abi::Str { data: b"\"\xff\"".as_ptr(), len: 3 };
    let (mut bytes, mut ids, mut sample) = (table::no_bytes(), null_mut(), null_mut());
    let (mut reader, mut tokenizer, mut dataset) = (null_mut(), null_mut(), null_mut());
    let raw = given.tokenizer.raw();
    // SAFETY: all pointers are valid, and a call that fails returns nothing to free.
    unsafe {
        let names = abi::ConvertOptions { dimensions: &bad, num_dimensions: 1, ..options() };
        let sources = abi::ConvertOptions { exclude_sources: &bad, num_exclude_sources: 1, ..options() };
        let record = table::text(RECORD);
        let cache = abi::DatasetOptions { cache_dir: bad, ..given.dataset_options() };
        let calls = [
            ("record", checked(|e| (api.convert_record)(bad, 0, &given.convert, &mut bytes, e))),
            ("dimensions", checked(|e| (api.convert_record)(record, 0, &names, &mut bytes, e))),
            ("exclude_sources", checked(|e| (api.convert_record)(record, 0, &sources, &mut bytes, e))),
            ("paths", checked(|e| (api.reader_open)(&bad, 1, &given.convert, &mut reader, e))),
            ("folder", checked(|e| (api.tokenizer_open)(bad, table::text(""), &mut tokenizer, e))),
            ("chat_template", checked(|e| (api.tokenizer_open)(table::text("x"), bad, &mut tokenizer, e))),
            ("messages", checked(|e| (api.tokenizer_render)(raw, bad, 0, &mut bytes, e))),
            ("text", checked(|e| (api.tokenizer_encode)(raw, bad, &mut ids, e))),
            ("sample", checked(|e| (api.tokenize)(raw, bad, &given.tokenize, &mut sample, e))),
            ("tokens", checked(|e| (api.tokenized_sample_new)(bad, &mut sample, e))),
            ("paths", checked(|e| (api.dataset_open)(&bad, 1, raw, &cache, &mut dataset, e))),
            ("cache_dir", checked(|e| (api.dataset_open)(&given.path(), 1, raw, &cache, &mut dataset, e))),
        ];
        for (name, call) in calls {
            let message = format!("argument `{name}` is not valid UTF-8: byte 1 is invalid");
            assert_eq!(call.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, message));
        }
    }
}

fn options() -> abi::ConvertOptions {
    table::convert_options(abi::FORMAT_ULTRAFEEDBACK)
}

/// Tensors that the caller has taken out of a batch stay valid, and the batch may be freed twice.
#[test]
pub fn freeing_a_batch_leaves_what_was_taken_out() {
    let given = Given::new();
    // SAFETY: all pointers are valid; the tensor that is taken out is ours.
    unsafe {
        let mut batch = table::sized::<abi::Batch>();
        let raw = given.tokenized.raw().cast_const();
        checked(|e| (api().collate)(&raw, 1, &1.0, &given.collate, &mut batch, e)).unwrap();
        let input_ids = std::mem::replace(&mut batch.input_ids, null_mut());
        for _ in 0..2 {
            (api().batch_free)(&mut batch);
            macro_rules! is_empty {
                ($($field:ident),*) => { $(batch.$field.is_null())&&* };
            }
            assert!(lambda_dpo_tests::batch_fields!(is_empty));
        }
        assert_eq!(abi::tensor::import(input_ids).unwrap().dim(), 2);
    }
}

#[test]
fn empty_batches_and_indices_out_of_range_are_refused() {
    let collate = table::collate_options(abi::LAYOUT_ROWS);
    let (status, message) = table::collate(&[], &[], &collate).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(message, "a batch needs at least one sample, but none were given");

    let no_responses = r#"{"instruction": "hi", "completions": []}"#;
    assert_eq!(table::convert_record(no_responses, 0, &options()).unwrap(), None);
    let given = Given::new();
    for lambda in [f64::NAN, f64::INFINITY, -0.5] {
        let samples = [table::tokenize(&given.tokenizer, &given.sample, &given.tokenize).unwrap().unwrap()];
        let (status, message) = table::collate(&samples, &[lambda], &collate).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(message.starts_with("lambda of record 0 is"), "{message}");
    }
    let mut dataset = null_mut();
    let options = given.dataset_options();
    // SAFETY: all pointers are valid; the dataset is freed once.
    unsafe {
        checked(|e| (api().dataset_open)(&given.path(), 1, given.tokenizer.raw(), &options, &mut dataset, e)).unwrap();
        let dataset = Handle::new(dataset, api().dataset_free);
        let mut batch = table::sized::<abi::Batch>();
        for (indices, expected) in [([1_u64], "index 1 is out of range"), ([u64::MAX], "is out of range")] {
            let call =
                checked(|e| (api().dataset_batch)(dataset.raw(), indices.as_ptr(), 1, &1.0, &collate, &mut batch, e));
            let (status, message) = call.unwrap_err();
            assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
            assert!(message.contains(expected), "{message}");
            assert!(batch.input_ids.is_null(), "a failing call must leave its outputs untouched");
        }
    }
}

#[test]
fn a_progress_callback_cancels() {
    unsafe extern "C" fn stop(calls: *mut std::ffi::c_void, _: u64, _: u64) -> i32 {
        // SAFETY: the test's own counter.
        unsafe { *calls.cast::<u32>() += 1 };
        1
    }
    let (given, mut calls, mut dataset) = (Given::new(), 0_u32, null_mut());
    let options =
        abi::DatasetOptions { progress: Some(stop), progress_user: (&raw mut calls).cast(), ..given.dataset_options() };
    // SAFETY: all pointers are valid.
    let result = checked(|e| unsafe {
        (api().dataset_open)(&given.path(), 1, given.tokenizer.raw(), &options, &mut dataset, e)
    });
    assert_eq!(result.unwrap_err().0, abi::STATUS_CANCELLED);
    assert_eq!((calls, dataset.is_null()), (1, true));
}
