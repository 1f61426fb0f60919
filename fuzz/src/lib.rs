//! Shared by the fuzz targets.
//!
//! | module | what |
//! |---|---|
//! | `tiny` | a tiny model and its files |
//! | `handles`, `lent`, `files` | what a careless caller of the table passes: handles, tensors, paths |
//! | `arguments`, `losses`, `calls` | descriptions of calls of the table, as an input's bytes give them |
//! | `checked` | what each call must keep |
#![cfg(feature = "targets")]

pub mod tiny;
pub mod handles;
pub mod lent;
pub mod files;
pub mod arguments;
pub mod losses;
pub mod calls;
pub mod checked;

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
