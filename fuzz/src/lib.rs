//! Shared by the fuzz targets.

/// Ignores panics of the tokenizer and the template engine.
///
/// They panic on some inputs; the core catches such a panic and returns an error, but libfuzzer would end the process
/// at the panic. A panic that the core does not catch still reaches the target and is a finding, as is any panic of the
/// project.
pub fn pass_over_libraries() {
    let finding = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_of_library = |file: &str| file.contains("/minijinja") || file.contains("/tokenizers-");
        if !panic.location().is_some_and(|location| is_of_library(location.file())) {
            finding(panic);
        }
    }));
}
