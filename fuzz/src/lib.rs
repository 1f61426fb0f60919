//! Shared by the fuzz targets.
#![cfg(feature = "targets")]

pub mod checked;
pub mod handles;
pub mod lent;
pub mod tiny;

/// Ignores panics of the tokenizer and the template engine, which some inputs cause. The core catches these and returns
/// an error, but libfuzzer's hook would end the process first. A panic that is not caught still reaches the target, and
/// so is a finding, like every panic of our own code.
pub fn ignore_library_panics() {
    let finding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_of_library = |file: &str| file.contains("/minijinja") || file.contains("/tokenizers-");
        if !panic.location().is_some_and(|location| is_of_library(location.file())) {
            finding(panic);
        }
    }));
}
