//! Chat templates: any template, rendered on any conversation. The input is a list of texts separated by NUL: the
//! template, then roles and contents in turn.
#![no_main]

use lambda_dpo_core::Message;
use lambda_dpo_core::chat_template::ChatTemplate;
use lambda_dpo_fuzz::ignore_library_panics;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: ignore_library_panics(), |input: &str| {
    let mut texts = input.split('\0');
    let tokens = [("bos_token".to_owned(), "<s>".to_owned())];
    let Ok(template) = ChatTemplate::new(texts.next().unwrap_or_default(), "template", tokens) else { return };
    let texts: Vec<&str> = texts.collect();
    let messages: Vec<Message> =
        texts.chunks_exact(2).map(|turn| Message::new(turn[0], turn[1])).collect();
    // An error is a valid result, but rendering must be deterministic.
    let first = template.render(&messages, true);
    assert_eq!(first, template.render(&messages, true));
});
