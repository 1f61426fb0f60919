//! Writes text to stdout while it is generated.

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;

use crate::model::Model;
use crate::plugin::Tokenizer;

use super::decoder::generate;
use super::options::GenerateOptions;
use super::text::TextStream;

/// Generates text after the prompt, streams it to stdout, and returns it.
///
/// # Errors
///
/// Errors from model or tokenizer, or if stdout cannot be written to.
pub fn answer(model: &Model, tokenizer: &Tokenizer, prompt_ids: &[i64], options: &GenerateOptions) -> Result<String> {
    let mut output = Output { stream: TextStream::new(tokenizer), text: String::new(), failed: None };
    generate(model, prompt_ids, options, &mut |token| output.push(token))?;
    output.finish()
}

/// Returns whether the error is that stdout's reader is gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes text as soon as its characters are complete.
struct Output<'t> {
    stream: TextStream<'t>,
    text: String,
    failed: Option<anyhow::Error>,
}

impl Output<'_> {
    fn push(&mut self, token: i64) -> ControlFlow<()> {
        let shown = self.stream.push(token).map_err(Into::into).and_then(|text| self.show(&text));
        self.failed = shown.err();
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn show(&mut self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        self.text.push_str(text);
        Ok(())
    }

    fn finish(mut self) -> Result<String> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let rest = self.stream.finish()?;
        self.show(&rest)?;
        writeln!(io::stdout())?;
        Ok(self.text)
    }
}
