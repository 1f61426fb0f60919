//! What all requests share.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Model;
use crate::plugin::Tokenizer;

use super::catalogue::Catalogue;
use super::error::ApiError;
use super::job::Job;
use super::metrics::Metrics;
use super::options::ServeOptions;
use super::token_names::TokenNames;

/// What all requests share.
pub(super) struct App {
    /// Names and λ.
    pub(super) catalogue: Catalogue,
    /// The model's tokenizer.
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Names of tokens.
    pub(super) token_names: TokenNames,
    /// The token that a text begins with, if there is one.
    pub(super) bos_token_id: Option<i64>,
    /// Whether there can be chats.
    pub(super) has_chat_template: bool,
    /// Number of token ids that the model knows.
    pub(super) vocab_size: i64,
    /// Tokens of prompt and answer together.
    pub(super) max_model_len: usize,
    /// Seconds since 1970 at which the server began.
    pub(super) created: u64,
    /// Counters.
    pub(super) metrics: Arc<Metrics>,
    /// How slow a client may be.
    pub(super) client_timeout: Duration,
    api_key: Option<blake3::Hash>,
    capacity: usize,
    places: Arc<Semaphore>,
    queue: SyncSender<Job>,
    stopping: AtomicBool,
    cut_off: Arc<AtomicBool>,
}

impl App {
    /// Collects what requests share.
    pub(super) fn new(
        options: &ServeOptions,
        catalogue: Catalogue,
        model: &Model,
        tokenizer: Arc<Tokenizer>,
        queue: SyncSender<Job>,
        metrics: Arc<Metrics>,
        max_model_len: usize,
    ) -> Result<Self> {
        let info = tokenizer.info()?;
        Ok(Self {
            catalogue,
            token_names: TokenNames::new(Arc::clone(&tokenizer)),
            tokenizer,
            bos_token_id: info.bos_token_id,
            has_chat_template: info.has_chat_template,
            vocab_size: model.config().vocab_size,
            max_model_len,
            created: unix_seconds(),
            metrics,
            client_timeout: options.client_timeout,
            api_key: options.api_key.as_ref().map(|key| blake3::hash(key.as_bytes())),
            capacity: options.capacity(),
            places: Arc::new(Semaphore::new(options.capacity())),
            queue,
            stopping: AtomicBool::new(false),
            cut_off: Arc::default(),
        })
    }

    /// Returns whether a key is asked for.
    pub(super) fn has_api_key(&self) -> bool {
        self.api_key.is_some()
    }

    /// Returns whether a request that carries `key` may use the API. Takes the same time for every wrong key: hashes are
    /// compared, in constant time.
    pub(super) fn allows(&self, key: Option<&[u8]>) -> bool {
        let Some(expected) = &self.api_key else { return true };
        key.is_some_and(|key| blake3::hash(key) == *expected)
    }

    /// Takes places for `num_texts` texts, one permit for each.
    ///
    /// # Errors
    ///
    /// Returns 503 while the server stops, 429 if there are not enough places, and 400 if there never are.
    pub(super) fn places(&self, num_texts: usize) -> Result<Vec<OwnedSemaphorePermit>, ApiError> {
        if self.is_stopping() {
            return Err(ApiError::stopping());
        }
        if num_texts > self.capacity {
            return Err(ApiError::malformed(format!(
                "the request asks for {num_texts} texts, prompts times `n`, but the server takes at most {} at a time: send \
                 fewer at once",
                self.capacity
            )));
        }
        let num_texts = u32::try_from(num_texts).map_err(|_| ApiError::busy(self.capacity))?;
        let mut all =
            Arc::clone(&self.places).try_acquire_many_owned(num_texts).map_err(|_| ApiError::busy(self.capacity))?;
        Ok((0..num_texts).filter_map(|_| all.split(1)).collect())
    }

    /// Returns the number of texts that have a place.
    pub(super) fn num_texts(&self) -> usize {
        self.capacity - self.places.available_permits()
    }

    /// Puts a text in the queue.
    ///
    /// # Errors
    ///
    /// Returns 500 if the worker has ended.
    pub(super) fn submit(&self, job: Job) -> Result<(), ApiError> {
        self.queue
            .try_send(job)
            .map_err(|_| ApiError::internal("the thread of the engine has ended: start the server again"))
    }

    /// Refuses new texts from now on.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether new texts are refused.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Returns the flag that ends the texts that are still running.
    pub(super) fn cut_off(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cut_off)
    }
}

/// Returns the seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Returns a random number, another one at each call.
pub(super) fn random() -> u64 {
    // The standard library keys each of these with random bits of the operating system, and changes the key at each call.
    RandomState::new().hash_one(0)
}
