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
    let (mut stream, mut text) = (TextStream::new(tokenizer), String::new());
    let mut failed = None;
    generate(model, prompt_ids, options, &mut |token| {
        if options.eos_token_ids.contains(&token) {
            return ControlFlow::Break(());
        }
        let shown = stream.push(token).map_err(anyhow::Error::from).and_then(|piece| show(&piece, &mut text));
        match shown {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    show(&stream.finish()?, &mut text)?;
    writeln!(io::stdout())?;
    Ok(text)
}

/// Returns whether the error is that stdout's reader is gone.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes the next piece of a text, and appends it to what was written of it.
fn show(piece: &str, text: &mut String) -> Result<()> {
    if !piece.is_empty() {
        let mut stdout = io::stdout().lock();
        stdout.write_all(piece.as_bytes())?;
        stdout.flush()?;
        text.push_str(piece);
    }
    Ok(())
}
