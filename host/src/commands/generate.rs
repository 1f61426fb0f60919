//! `lambda-dpo generate`: text after a prompt, streamed to stdout.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cli::GenerateArgs;
use crate::generate::{GenerateOptions, generate};
use crate::plugin::{Message, PluginError, Tokenizer};

use super::{Opened, open};

pub(super) fn run(args: &GenerateArgs, plugin: Option<&Path>) -> Result<()> {
    let opened = open(&args.model, plugin)?;
    let prompt_ids = prompt_ids(args, &opened)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        eos_token_ids: eos_token_ids(&opened)?,
    };
    let mut stream = Stream { tokenizer: &opened.tokenizer, ids: Vec::new(), shown: 0, failed: None };
    generate(&opened.model, &prompt_ids, &options, &mut |token| stream.push(token, &options.eos_token_ids))?;
    stream.finish()
}

fn prompt_ids(args: &GenerateArgs, opened: &Opened) -> Result<Vec<i64>> {
    let info = opened.tokenizer.info()?;
    if args.raw {
        let mut ids: Vec<i64> = info.bos_token_id.into_iter().collect();
        ids.extend(opened.tokenizer.encode(&args.prompt)?);
        return Ok(ids);
    }
    if !info.has_chat_template {
        bail!(
            "the tokenizer of {} has no chat template: use --raw, or give one with --chat-template FILE",
            opened.folder.display()
        );
    }
    let message = Message { role: "user".into(), content: args.prompt.clone() };
    let text = opened.tokenizer.render(&[message], true)?;
    Ok(opened.tokenizer.encode(&text)?)
}

/// Tokens that end a text: those of `generation_config.json`, else of `config.json`, else the tokenizer's.
fn eos_token_ids(opened: &Opened) -> Result<Vec<i64>> {
    for name in ["generation_config.json", "config.json"] {
        let Ok(text) = std::fs::read_to_string(opened.folder.join(name)) else { continue };
        let Ok(config) = serde_json::from_str::<Value>(&text) else { continue };
        let ids: Vec<i64> = match &config["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(Value::as_i64).collect(),
            id => id.as_i64().into_iter().collect(),
        };
        if !ids.is_empty() {
            return Ok(ids);
        }
    }
    Ok(opened.tokenizer.info()?.eos_token_id.into_iter().collect())
}

/// Writes text as soon as its characters are whole.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<i64>,
    /// Bytes of the decoded text that have been written.
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
        // A character whose bytes are spread over tokens decodes to U+FFFD until the last one is there.
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

    fn finish(mut self) -> Result<()> {
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self.show(true).and_then(|()| Ok(writeln!(io::stdout())?)),
        };
        match result {
            // The reader has seen enough.
            Err(error) if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) => {
                Ok(())
            }
            other => other,
        }
    }
}
