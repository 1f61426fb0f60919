//! `lambda-dpo generate`: continues a prompt, streaming the text to stdout.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::GenerateArgs;
use crate::generate::GenerateOptions;
use crate::generate::stream::{answer, is_broken_pipe};
use crate::plugin::Message;

use super::answers;
use super::chat;
use super::loaded_model::LoadedModel;

pub(super) fn run(args: &GenerateArgs, plugin: Option<&Path>) -> Result<()> {
    let mut loaded = LoadedModel::load(&args.model, plugin)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        eos_token_ids: loaded.eos_token_ids()?,
    };
    if let (Some(prompts), Some(out)) = (&args.prompts, &args.out) {
        return answers::run(&loaded, args, prompts, out, &options);
    }
    let Some(prompt) = &args.prompt else {
        if args.raw {
            bail!("--raw needs a PROMPT, because a chat uses the chat template: pass one, or leave --raw out");
        }
        return chat::run(&mut loaded, options);
    };
    let prompt_ids = if args.raw {
        let mut ids: Vec<i64> = loaded.tokenizer.info()?.bos_token_id.into_iter().collect();
        ids.extend(loaded.tokenizer.encode(prompt)?);
        ids
    } else {
        let message = Message::new("user", prompt);
        loaded.encode_conversation(&[message])?
    };
    match answer(&loaded.model, &loaded.tokenizer, &prompt_ids, &options) {
        // The reader has closed the pipe.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        other => other.map(drop),
    }
}
