//! `lambda-dpo serve`: OpenAI's API over one model, in which every request has its own λ.
//!
//! The journey of a request:
//!
//! 1. [`connections`] accepts it, with bounds on how slow and how many clients may be.
//! 2. [`http`] finds its route, after checking key and origin.
//! 3. [`api`] reads its fields, refuses what it cannot do, and makes a plan: prompts, λ, sampling.
//! 4. [`answer`] takes a place in the queue for each text of the plan.
//! 5. [`worker`], the one thread that owns the model, generates all texts of all requests together, and ends those whose
//!    client is gone.
//! 6. [`answer`] turns what comes back into one response, or into a stream of events.
//!
//! | module | contents |
//! |---|---|
//! | [`options`] | the address, names and limits |
//! | [`body`] | JSON as the body of a response |
//! | [`error`] | OpenAI's error object |
//! | [`metrics`] | what `/metrics` shows |
//! | [`stop`] | stop strings in text that comes in pieces |
//! | [`job`] | a text to generate, and its pieces |
//! | [`worker`] | the thread that owns the model |
//! | [`catalogue`] | names of models, and λ in them |
//! | [`token_names`] | tokens as text |
//! | [`state`] | what all requests share |
//! | [`incoming`] | the body of a request |
//! | [`api`] | fields in, objects out |
//! | [`answer`] | from a plan to its response |
//! | [`http`] | routes and what is checked before them |
//! | [`connections`] | the socket |
//!
//! # Invariants
//!
//! - The worker waits for no client: pieces go into channels that never block, and a client that does not read is
//!   disconnected after [`ServeOptions::client_timeout`]. At most `max_model_len` pieces of each text are in memory.
//! - No more texts are in the server than run at once and fit the queue, so memory is bounded.
//! - Nothing that a client sends ends the process: a panic fails the request that caused it.
//! - A field of OpenAI's API that would change the answer, and that is not implemented, is refused, never ignored.

pub mod options;
mod body;
mod error;
mod metrics;
mod stop;
mod job;
mod worker;
mod catalogue;
mod token_names;
mod state;
mod incoming;
mod api;
mod answer;
mod http;
mod connections;

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context as _, Result, anyhow};

use crate::interrupt::Interrupt;
use crate::model::Model;
use crate::plugin::Tokenizer;

pub use connections::Address;
pub use options::{ServeOptions, default_name};

use catalogue::Catalogue;
use metrics::Metrics;
use state::App;
use worker::Worker;

/// A model, ready to be served.
pub struct Served {
    /// The model with its adapter, if any. A λ-adapter's λ must be free: each request brings its own.
    pub model: Model,
    /// Its tokenizer with the chat template.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<i64>,
}

/// Serves a model at `address` until a signal comes; then finishes what is running, for at most
/// [`connections::GRACE`], and refuses what is new.
///
/// # Errors
///
/// Returns an error if an option is out of range, or if a socket, a thread or a signal handler cannot be had.
pub fn serve(served: Served, address: Address, options: &ServeOptions) -> Result<()> {
    let Served { model, tokenizer, eos_token_ids } = served;
    let max_model_len = options.context(model.config().max_position_embeddings)?;
    let tokenizer = Arc::new(tokenizer);
    let metrics = Arc::new(Metrics::new().context("the metrics could not be set up")?);
    // Never full: there are as many places as permits for them.
    let (queue, jobs) = sync_channel(options.capacity());
    let dimensions = model.adapter_dimensions().map(<[String]>::to_vec).unwrap_or_default();
    let catalogue = Catalogue::new(options.name.clone(), dimensions)?;
    let app = App::new(options, catalogue, &model, Arc::clone(&tokenizer), queue, Arc::clone(&metrics), max_model_len)?;
    let app = Arc::new(app);
    let (cut_off, max_batch_size) = (app.cut_off(), options.max_batch_size);
    let worker = Worker { jobs, eos_token_ids, cut_off, metrics, max_batch_size };
    let interrupt = Interrupt::listen().context("the signal handlers could not be installed")?;
    thread::scope(|scope| {
        let connections = thread::Builder::new()
            .name("connections".into())
            .spawn_scoped(scope, || address.serve(app, options, &interrupt))
            .context("the thread of the connections could not be started")?;
        // On this thread, which loaded the model: OpenMP keeps a team for each thread that has called libtorch, and with more
        // threads in its teams than cores, they sleep at every barrier instead of waiting.
        worker.run(&model, &tokenizer);
        connections
            .join()
            .map_err(|_| anyhow!("the thread of the connections ended with a panic; its message is above"))?
    })
}
