//! Tokenizer folders: any text as `tokenizer.json` and `tokenizer_config.json`, then any text through the tokenizer.
//! The input is the three texts, separated by NULs.
#![no_main]

use std::fs;

use lambda_dpo_core::Tokenizer;
use lambda_dpo_fuzz::pass_over_libraries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: pass_over_libraries(), |input: &str| {
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
