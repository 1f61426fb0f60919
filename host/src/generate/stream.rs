//! Writes text to stdout while it is generated.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;

use crate::model::Model;
use crate::plugin::{PluginError, Tokenizer};

use super::decoder::generate;
use super::options::GenerateOptions;

/// Generates text after the prompt, streams it to stdout, and returns it.
///
/// # Errors
///
/// Errors from model or tokenizer, or if stdout cannot be written to.
pub fn answer(model: &Model, tokenizer: &Tokenizer, prompt_ids: &[i64], options: &GenerateOptions) -> Result<String> {
    let mut stream = Stream { tokenizer, ids: Vec::new(), shown: 0, failed: None };
    generate(model, prompt_ids, options, &mut |token| stream.push(token, &options.eos_token_ids))?;
    stream.finish()
}

/// Returns whether the error is that stdout's reader is gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes text as soon as its characters are complete.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<i64>,
    /// Number of bytes of the decoded text that have been written.
    shown: usize,
    failed: Option<anyhow::Error>,
}

impl Stream<'_> {
    fn push(&mut self, token: i64, eos_token_ids: &[i64]) -> ControlFlow<()> {
        if eos_token_ids.contains(&token) {
            return ControlFlow::Break(());
        }
        self.ids.push(token);
        match self.show(false) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn show(&mut self, is_last: bool) -> Result<()> {
        let text = self.decode()?;
        // A character whose bytes are spread over several tokens decodes to U+FFFD until the last of them is generated.
        let whole = if is_last { text.as_str() } else { text.trim_end_matches('\u{fffd}') };
        if let Some(new) = whole.get(self.shown..) {
            let mut stdout = io::stdout().lock();
            stdout.write_all(new.as_bytes())?;
            stdout.flush()?;
            self.shown = whole.len();
        }
        Ok(())
    }

    fn decode(&self) -> Result<String, PluginError> {
        self.tokenizer.decode(&self.ids, true)
    }

    fn finish(mut self) -> Result<String> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.show(true)?;
        writeln!(io::stdout())?;
        Ok(self.decode()?)
    }
}
