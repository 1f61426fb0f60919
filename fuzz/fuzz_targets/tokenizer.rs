//! Tokenizer folders: any text as `tokenizer.json` and as `tokenizer_config.json`, and text for the tokenizer that they
//! make. The input is these three texts, separated by NUL.
#![no_main]
#![expect(clippy::expect_used, reason = "a target cannot go on without its files")]

use std::fs;

use lambda_dpo_core::Tokenizer;
use lambda_dpo_fuzz::ignore_library_panics;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: ignore_library_panics(), |input: &str| {
    let mut texts = input.splitn(3, '\0').chain(std::iter::repeat(""));
    let mut next = || texts.next().unwrap_or_default();
    let (tokenizer, config, text) = (next(), next(), next());
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("tokenizer.json"), tokenizer).expect("a temporary file");
    fs::write(folder.path().join("tokenizer_config.json"), config).expect("a temporary file");
    let Ok(tokenizer) = Tokenizer::open(folder.path(), None) else { return };
    if let Ok(ids) = tokenizer.encode(text) {
        let _ = tokenizer.decode(&ids, false);
    }
});
