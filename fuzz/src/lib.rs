//! What the targets share.

/// The tokenizer and the template engine panic at some of what people may write; the core catches that and tells of it as
/// an error, but libfuzzer ends the process before. So their panics are passed over here. One that is not caught after all
/// reaches the target, which is a finding, as is every panic of our own.
pub fn pass_over_libraries() {
    let finding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_of_library = |file: &str| file.contains("/minijinja") || file.contains("/tokenizers-");
        if !panic.location().is_some_and(|location| is_of_library(location.file())) {
            finding(panic);
        }
    }));
}
