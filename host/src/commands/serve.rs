//! `lambda-dpo serve`: OpenAI's API over one model, with a λ for every request.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cli::ServeArgs;
use crate::serve::{Address, ServeOptions, Served, default_name, serve};

use super::loaded_model::LoadedModel;

/// Names the key where `ps` does not show it.
const API_KEY: &str = "LAMBDA_DPO_API_KEY";

pub(super) fn run(args: &ServeArgs, plugin: Option<&Path>) -> Result<()> {
    ensure!(args.model.policy.lambda.is_none(), "each request chooses its own λ: leave --lambda out");
    let options = ServeOptions {
        name: args.name.clone().unwrap_or_else(|| default_name(&args.model.policy.model)),
        api_key: args.api_key.clone().or_else(|| std::env::var(API_KEY).ok()),
        max_batch_size: args.max_batch_size,
        max_queue: args.max_queue,
        max_model_len: args.max_model_len,
        client_timeout: Duration::from_secs(args.client_timeout),
    };
    options.check()?;
    let address = Address::take(&args.host, args.port)?;
    let mut loaded = LoadedModel::load(&args.model, plugin)?;
    loaded.model.free_lambda();
    let eos_token_ids = loaded.eos_token_ids()?;
    serve(Served { model: loaded.model, tokenizer: loaded.tokenizer, eos_token_ids }, address, &options)
}
