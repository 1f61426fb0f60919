//! Chat templates: any template, rendered for any conversation. The input is texts separated by NULs: the template,
//! then roles and contents alternately.
#![no_main]

use lambda_dpo_core::Message;
use lambda_dpo_core::chat_template::ChatTemplate;
use lambda_dpo_fuzz::pass_over_libraries;
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: pass_over_libraries(), |input: &str| {
    let mut texts = input.split('\0');
    let tokens = [("bos_token".to_owned(), "<s>".to_owned())];
    let Ok(template) = ChatTemplate::new(texts.next().unwrap_or_default(), "template", tokens) else { return };
    let texts: Vec<&str> = texts.collect();
    let messages: Vec<Message> =
        texts.chunks_exact(2).map(|turn| Message::new(turn[0], turn[1])).collect();
    // An error is allowed, but rendering must return the same each time.
    let first = template.render(&messages, true);
    assert_eq!(first, template.render(&messages, true));
});
