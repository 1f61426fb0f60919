//! What a caller does wrong: counts and values that cannot be, texts of any depth and size, a callback that stops.

use std::ptr::{null, null_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_tests::fixture;
use lambda_dpo_tests::table::{self, Handle, api, told};

pub const RECORD: &str = r#"{"instruction": "hi", "completions": [
    {"response": "one", "annotations": {"a": {"Rating": 5}}}, {"response": "two", "annotations": {"a": {"Rating": 1}}}]}"#;

/// What calls need that earlier ones give.
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
}

#[test]
fn a_misaligned_struct_is_refused() {
    let room = [0_u64; 32];
    // SAFETY: within the array; the plugin must not read it.
    let options = unsafe { room.as_ptr().cast::<u8>().add(1) }.cast::<abi::ConvertOptions>();
    let mut bytes = table::no_bytes();
    // SAFETY: as above.
    let told = told(|e| unsafe { (api().convert_record)(table::text(RECORD), 0, options, &mut bytes, e) });
    assert_eq!(told.unwrap_err(), (abi::STATUS_INVALID_ARGUMENT, "argument `options` is not aligned".to_owned()));
}

#[test]
fn values_of_later_versions_are_refused() {
    let refused = |options: &abi::ConvertOptions, message: &str| {
        let told = table::convert_record(RECORD, 0, options).unwrap_err();
        assert_eq!(told, (abi::STATUS_INVALID_ARGUMENT, message.to_owned()));
    };
    let options = || table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    refused(&table::convert_options(3), "`format` is 3, expected 0, 1 or 2");
    refused(&abi::ConvertOptions { keep_all: 2, ..options() }, "`keep_all` is 2, expected 0 or 1");
    refused(&abi::ConvertOptions { reserved: 1, ..options() }, "`reserved` is 1, expected 0");
}

#[test]
fn tokens_that_contradict_themselves_are_refused() {
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
        (
            tokens("[[3],[4]]", "[0,1]", "[[0.5,0.6]]"),
            "record 7: `pi_target[0]` comes to 1.1: a distribution comes to 1",
        ),
    ] {
        let (status, message) = table::tokenized(&tokens).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert_eq!(message, format!("not a valid tokenised sample: {problem}"));
    }
}

/// A record of many levels, of 100 MB, with a NUL: an answer or a sentence, and the library goes on.
#[test]
fn texts_of_any_depth_and_size_are_answered() {
    let options = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    for open in ["[", "{\"a\":"] {
        let (status, message) = table::convert_record(&open.repeat(10_000), 0, &options).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_DATA);
        assert!(message.starts_with("record 0: not valid JSON: recursion limit exceeded"), "{message}");
    }
    let nested = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep = RECORD.replace("5", &nested);
    assert_eq!(table::convert_record(&deep, 0, &options).unwrap_err().0, abi::STATUS_INVALID_DATA);

    let long = "x".repeat(100 << 20);
    let sample = table::convert_record(&RECORD.replace("one", &long), 0, &options).unwrap().unwrap();
    assert!(sample.len() > long.len());
    let (status, _) = table::convert_record(&long, 0, &options).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_DATA);

    let with_nul = RECORD.replace("one", "a\\u0000b");
    let sample = table::convert_record(&with_nul, 0, &options).unwrap().unwrap();
    assert!(sample.contains("a\\u0000b"), "{sample}");
}

#[test]
fn batches_of_nothing_are_refused() {
    let collate = table::collate_options(abi::LAYOUT_ROWS);
    let (status, message) = table::collate(&[], &[], &collate).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
    assert_eq!(message, "a batch needs at least one sample, but none were given");

    let options = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    let no_responses = r#"{"instruction": "hi", "completions": []}"#;
    assert_eq!(table::convert_record(no_responses, 0, &options).unwrap(), None);
    let given = Given::new();
    for lambda in [f64::NAN, f64::INFINITY, -0.5] {
        let samples = [table::tokenize(&given.tokenizer, &given.sample, &given.tokenize).unwrap().unwrap()];
        let (status, message) = table::collate(&samples, &[lambda], &collate).unwrap_err();
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(message.starts_with("lambda of record 0 is"), "{message}");
    }
    let mut dataset = null_mut();
    let options = abi::DatasetOptions {
        struct_size: size_of::<abi::DatasetOptions>(),
        convert: &given.convert,
        tokenize: &given.tokenize,
        progress: None,
        progress_user: null_mut(),
        cache_dir: abi::Str { data: null(), len: 0 },
    };
    // SAFETY: all pointers are valid; the dataset is freed once.
    unsafe {
        told(|e| (api().dataset_open)(&given.path(), 1, given.tokenizer.raw(), &options, &mut dataset, e)).unwrap();
        let dataset = Handle::new(dataset, api().dataset_free);
        let mut batch = table::sized::<abi::Batch>();
        for (indices, expected) in [([1_u64], "index 1 is out of range"), ([u64::MAX], "is out of range")] {
            let call =
                told(|e| (api().dataset_batch)(dataset.raw(), indices.as_ptr(), 1, &1.0, &collate, &mut batch, e));
            let (status, message) = call.unwrap_err();
            assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
            assert!(message.contains(expected), "{message}");
            assert!(batch.input_ids.is_null(), "a failing call must leave its outputs untouched");
        }
    }
}

#[test]
fn a_progress_callback_stops_the_work() {
    unsafe extern "C" fn stop(calls: *mut std::ffi::c_void, _: u64, _: u64) -> i32 {
        // SAFETY: the test's own counter.
        unsafe { *calls.cast::<u32>() += 1 };
        1
    }
    let (given, mut calls, mut dataset) = (Given::new(), 0_u32, null_mut());
    let options = abi::DatasetOptions {
        struct_size: size_of::<abi::DatasetOptions>(),
        convert: &given.convert,
        tokenize: &given.tokenize,
        progress: Some(stop),
        progress_user: (&raw mut calls).cast(),
        cache_dir: abi::Str { data: null(), len: 0 },
    };
    // SAFETY: all pointers are valid.
    let told =
        told(|e| unsafe { (api().dataset_open)(&given.path(), 1, given.tokenizer.raw(), &options, &mut dataset, e) });
    assert_eq!(told.unwrap_err().0, abi::STATUS_CANCELLED);
    assert_eq!((calls, dataset.is_null()), (1, true));
}
