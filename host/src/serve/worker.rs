//! The thread that owns the model: generates all texts together, and ends those that nobody waits for.

mod row;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use crate::console::say;
use crate::generate::engine::Engine;
use crate::generate::request::{Event, RowId};
use crate::model::{Model, ModelError};
use crate::plugin::Tokenizer;

use super::job::{Failure, Job};
use super::metrics::Metrics;
use row::Row;

/// What the thread needs beside model and tokenizer.
pub(super) struct Worker {
    /// Texts to generate; the thread ends when all senders are gone.
    pub(super) jobs: Receiver<Job>,
    /// Tokens that end a text.
    pub(super) eos_token_ids: Vec<i64>,
    /// Set when texts that are still running must end.
    pub(super) cut_off: Arc<AtomicBool>,
    /// The server's metrics.
    pub(super) metrics: Arc<Metrics>,
    /// Texts that are generated at once.
    pub(super) max_batch_size: usize,
}

impl Worker {
    /// Generates until all senders are gone.
    pub(super) fn run(self, model: &Model, tokenizer: &Tokenizer) {
        let new_engine = || Engine::new(model, self.max_batch_size);
        let mut texts = Texts { tokenizer, worker: &self, engine: new_engine(), rows: HashMap::new() };
        loop {
            let mut first = None;
            if texts.engine.is_idle() {
                self.metrics.batch_size.set(0);
                match self.jobs.recv() {
                    Ok(job) => first = Some(job),
                    Err(_) => return,
                }
            }
            let Err(problem) = caught(|| texts.turn(first)) else { continue };
            let message = format!("the engine failed: {problem}");
            say(&format!("error: {message}; the texts that were running are lost"));
            self.metrics.engine_failures.inc();
            for (_, row) in texts.rows.drain() {
                row.fail(Failure::Internal(message.clone()));
            }
            // Whatever state the other one is in.
            texts.engine = new_engine();
        }
    }
}

/// The texts in the engine.
struct Texts<'w> {
    tokenizer: &'w Tokenizer,
    worker: &'w Worker,
    engine: Engine<'w>,
    rows: HashMap<RowId, Row<'w>>,
}

impl Texts<'_> {
    fn add(&mut self, job: Job) {
        let (request, row) = Row::new(job, self.tokenizer);
        self.worker.metrics.prompt_tokens.inc_by(request.prompt.len() as u64);
        match self.engine.add(request) {
            Ok(id) => _ = self.rows.insert(id, row),
            Err(error) => row.fail(Failure::Refused(error.to_string())),
        }
    }

    /// Adds the texts that wait in the queue, drops those of clients that are gone, and takes one step of the engine.
    fn turn(&mut self, first: Option<Job>) -> Result<(), ModelError> {
        first.into_iter().chain(self.worker.jobs.try_iter()).for_each(|job| self.add(job));
        let is_cut_off = self.worker.cut_off.load(Ordering::Relaxed);
        let ended: Vec<RowId> =
            self.rows.iter().filter(|(_, row)| is_cut_off || row.is_abandoned()).map(|(&id, _)| id).collect();
        for id in ended {
            self.engine.remove(id)?;
            if let Some(row) = self.rows.remove(&id) {
                if row.is_abandoned() {
                    self.worker.metrics.abandoned.inc();
                }
                row.fail(Failure::Stopping);
            }
        }
        if self.engine.is_idle() {
            return Ok(());
        }
        let events = self.engine.step()?;
        let num_running = i64::try_from(self.engine.num_running()).unwrap_or(i64::MAX);
        self.worker.metrics.batch_size.set(num_running);
        for (id, event) in events {
            self.deliver(id, event)?;
        }
        Ok(())
    }

    /// Passes an event on to its text. What fails here, even by a panic, fails this text alone.
    fn deliver(&mut self, id: RowId, event: Event) -> Result<(), ModelError> {
        // A text that ended by one event of a step may have another in it.
        let Some(row) = self.rows.get_mut(&id) else { return Ok(()) };
        let Worker { metrics, eos_token_ids, .. } = self.worker;
        let taken = caught(|| row.take(event, eos_token_ids, metrics));
        if matches!(taken, Ok(false)) {
            return Ok(());
        }
        if let (Some(row), Err(problem)) = (self.rows.remove(&id), taken) {
            row.fail(Failure::Internal(format!("the text could not be decoded: {problem}")));
        }
        self.engine.remove(id)
    }
}

/// Returns the result, or the message of the error or panic.
fn caught<T, E: ToString>(call: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(text.unwrap_or("a panic without a message").to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_messages() {
        assert_eq!(caught(|| Ok::<_, String>(7)), Ok(7));
        assert_eq!(caught(|| Err::<(), _>("an error")), Err("an error".to_owned()));
        assert_eq!(caught(|| -> Result<(), String> { panic!("a {}", "defect") }), Err("a defect".to_owned()));
        assert_eq!(caught(|| -> Result<(), String> { panic!("a defect") }), Err("a defect".to_owned()));
    }
}
