//! `lambda-dpo generate`: text after a prompt, streamed to stdout.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::GenerateArgs;
use crate::generate::GenerateOptions;
use crate::generate::stream::{answer, is_broken_pipe};
use crate::plugin::Message;

use super::chat;
use super::opened::open;

pub(super) fn run(args: &GenerateArgs, plugin: Option<&Path>) -> Result<()> {
    let mut opened = open(&args.model, plugin)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        eos_token_ids: opened.eos_token_ids()?,
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
        opened.render(&[message])?
    };
    match answer(&opened.model, &opened.tokenizer, &prompt_ids, &options) {
        // The reader has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other.map(drop),
    }
}
