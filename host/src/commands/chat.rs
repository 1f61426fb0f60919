//! `lambda-dpo generate` without a prompt: a conversation in the terminal, in which λ can be changed between turns.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Result, bail};

use crate::console::say;
use crate::generate::GenerateOptions;
use crate::generate::stream::{answer, is_broken_pipe};
use crate::lambda;
use crate::model::{Model, ModelError};
use crate::plugin::Message;

use super::loaded_model::LoadedModel;

const HELP: &str = "/lambda name=w,… sets λ, /lambda shows it, /new starts a new conversation, /quit ends";

/// A line of input.
enum Input<'l> {
    Lambda(&'l str),
    New,
    Quit,
    Help,
    Say(&'l str),
}

impl<'l> Input<'l> {
    fn read(line: &'l str) -> Self {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "/lambda" => Self::Lambda(rest.trim()),
            "/new" => Self::New,
            "/quit" => Self::Quit,
            _ if line.starts_with('/') => Self::Help,
            _ => Self::Say(line),
        }
    }
}

/// Answers each line of stdin until it ends.
pub(super) fn run(loaded: &mut LoadedModel, options: GenerateOptions) -> Result<()> {
    let is_terminal = io::stdin().is_terminal();
    if is_terminal {
        say(HELP);
    }
    let mut messages = Vec::new();
    let mut options = options;
    let mut lines = io::stdin().lock().lines();
    loop {
        if is_terminal {
            io::stderr().write_all(b"> ")?;
        }
        let Some(line) = lines.next().transpose()? else { return Ok(()) };
        match Input::read(&line) {
            Input::Quit => return Ok(()),
            Input::Help => say(HELP),
            Input::New => messages.clear(),
            Input::Say("") => {}
            Input::Lambda(text) => {
                if let Err(error) = change_lambda(&mut loaded.model, text) {
                    say(&format!("error: {error}"));
                }
            }
            Input::Say(text) => {
                messages.push(Message::new("user", text));
                let prompt_ids = loaded.encode_conversation(&messages)?;
                match answer(&loaded.model, &loaded.tokenizer, &prompt_ids, &options) {
                    Ok(content) => messages.push(Message::new("assistant", content)),
                    Err(error) if is_broken_pipe(&error) => return Ok(()),
                    Err(error) if matches!(error.downcast_ref(), Some(ModelError::Request(_))) => {
                        say(&format!("error: {error}; /new starts a new conversation"));
                        messages.pop();
                    }
                    Err(error) => return Err(error),
                }
                // Each turn samples with new random numbers.
                options.seed = options.seed.wrapping_add(1);
            }
        }
    }
}

/// Sets λ if `text` is not empty, and shows it.
fn change_lambda(model: &mut Model, text: &str) -> Result<()> {
    let Some(dimensions) = model.adapter_dimensions().map(<[String]>::to_vec) else {
        bail!("there is no λ to choose: pass an adapter of kind \"lambda_lora\" with --adapter");
    };
    if !text.is_empty() {
        model.fix_lambda(&lambda::parse(text, &dimensions)?)?;
    }
    say(&format!("λ: {}", lambda::show(&model.lambda().unwrap_or_default(), &dimensions)));
    Ok(())
}
