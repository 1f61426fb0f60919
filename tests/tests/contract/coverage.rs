//! Every function of the table has a test that compares it with the core.

use std::collections::BTreeSet;

use lambda_dpo_tests::root;
use serde_json::Value;

use crate::{arrow, data_path, datasets, handles, losses, misuse, versions};

/// Functions that only the table has, with nothing in the core to compare with.
const OF_THE_TABLE: [(&str, fn()); 10] = [
    ("build_info", versions::names_the_versions_it_was_built_for),
    ("batch_free", misuse::freeing_a_batch_leaves_what_was_taken_out),
    ("reader_free", handles::readers),
    ("tokenizer_free", handles::tokenizers_and_samples),
    ("decode_stream_free", handles::decode_streams),
    ("tokenized_sample_free", handles::tokenizers_and_samples),
    ("dataset_free", handles::datasets),
    ("schedule_free", handles::schedules_and_contexts),
    ("loss_context_free", losses::a_context_serves_one_backward),
    ("get_api", versions::refuses_other_majors_and_newer_minors),
];

/// A new function of the table is added to a `COVERED` list, next to a property test that calls it and the core with
/// the same random input and compares the results, including errors.
#[test]
fn every_function_is_compared_with_the_core() {
    let covered: BTreeSet<&str> =
        [&data_path::COVERED[..], &datasets::COVERED, &arrow::COVERED, &losses::COVERED, &OF_THE_TABLE]
            .concat()
            .into_iter()
            .map(|(function, _)| function)
            .collect();
    let functions = functions();
    let functions: BTreeSet<&str> = functions.iter().map(String::as_str).chain(["get_api"]).collect();
    assert_eq!(covered, functions);
}

/// The functions of the table.
fn functions() -> Vec<String> {
    let layout = std::fs::read_to_string(root().join("schemas/abi-1.0.json")).unwrap();
    let layout: Value = serde_json::from_str(&layout).unwrap();
    let fields = layout["structs"]["LambdaDpoApi"]["fields"].as_object().unwrap();
    let values = ["struct_size", "major", "minor"];
    fields.keys().filter(|name| !values.contains(&name.as_str())).cloned().collect()
}

#[test]
fn every_function_is_called_by_the_fuzz_targets() {
    let sources = ["fuzz/fuzz_targets/table.rs", "fuzz/src/handles.rs"]
        .map(|path| std::fs::read_to_string(root().join(path)).unwrap())
        .concat();
    for function in functions() {
        assert!(sources.contains(&format!("(api.{function})")), "fuzz/fuzz_targets/table.rs does not call {function}");
    }
}
