//! `lambda-dpo generate`: text after a prompt, streamed to stdout.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::cli::GenerateArgs;
use crate::generate::{GenerateOptions, generate};
use crate::plugin::{Message, PluginError, Tokenizer};

use super::{Opened, chat, open};

pub(super) fn run(args: &GenerateArgs, plugin: Option<&Path>) -> Result<()> {
    let mut opened = open(&args.model, plugin)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        eos_token_ids: eos_token_ids(&opened)?,
    };
    let Some(prompt) = &args.prompt else {
        if args.raw {
            bail!("--raw continues a PROMPT: a chat needs the chat template");
        }
        return chat::run(&mut opened, options);
    };
    let prompt_ids = if args.raw {
        let mut ids: Vec<i64> = opened.tokenizer.info()?.bos_token_id.into_iter().collect();
        ids.extend(opened.tokenizer.encode(prompt)?);
        ids
    } else {
        let message = Message { role: "user".into(), content: prompt.clone() };
        render(&opened, &[message])?
    };
    match answer(&opened, &prompt_ids, &options) {
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other.map(drop),
    }
}

/// Tokens of a conversation that the model is to go on with.
pub(super) fn render(opened: &Opened, messages: &[Message]) -> Result<Vec<i64>> {
    if !opened.tokenizer.info()?.has_chat_template {
        bail!(
            "the tokenizer of {} has no chat template: use --raw, or give one with --chat-template FILE",
            opened.folder.display()
        );
    }
    let text = opened.tokenizer.render(messages, true)?;
    Ok(opened.tokenizer.encode(&text)?)
}

/// Streams what follows the prompt to stdout, and gives it.
pub(super) fn answer(opened: &Opened, prompt_ids: &[i64], options: &GenerateOptions) -> Result<String> {
    let mut stream = Stream { tokenizer: &opened.tokenizer, ids: Vec::new(), shown: 0, failed: None };
    generate(&opened.model, prompt_ids, options, &mut |token| stream.push(token, &options.eos_token_ids))?;
    stream.finish()
}

/// Whether it was that nobody reads stdout any more.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Tokens that end a text: those of `generation_config.json`, else of `config.json`, else the tokenizer's.
pub(super) fn eos_token_ids(opened: &Opened) -> Result<Vec<i64>> {
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

    fn finish(mut self) -> Result<String> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.show(true)?;
        writeln!(io::stdout())?;
        Ok(self.decode()?)
    }
}
