//! Batches collated ahead, on a thread that lives as long as its dataset.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::samples::Samples;
use crate::{Batch, CollateOptions, Error, Result};

/// Number of batches that are held; beyond that the oldest are dropped. The ABI's constant of the same name.
pub const PREFETCH_CAPACITY: usize = 64;

/// Everything that a batch depends on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Request {
    pub(super) indices: Vec<usize>,
    pub(super) lambda: Vec<f64>,
    pub(super) options: CollateOptions,
}

/// A thread that collates, and its requests.
#[derive(Debug)]
pub(super) struct Prefetcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<Slot>,
    is_closed: bool,
}

#[derive(Debug)]
struct Slot {
    request: Arc<Request>,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Working,
    Ready(Result<Batch>),
}

impl Shared {
    /// Ignores poisoning: no statement that holds the queue leaves it inconsistent.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prefetcher {
    pub(super) fn start(samples: Arc<Samples>) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("lambda-dpo-collate".into())
            .spawn(move || work(&theirs, &samples))
            .map_err(|source| Error::Thread { purpose: "collate ahead", source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Asks for a batch, unless it was asked for already.
    pub(super) fn push(&self, request: Request) {
        let mut queue = self.shared.queue();
        if queue.slots.iter().any(|slot| *slot.request == request) {
            return;
        }
        while queue.slots.len() >= PREFETCH_CAPACITY {
            queue.slots.pop_front();
        }
        queue.slots.push_back(Slot { request: Arc::new(request), state: State::Waiting });
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Takes a batch out. Returns None if it was not asked for, or if the caller has it sooner by collating it now.
    pub(super) fn take(&self, request: &Request) -> Option<Result<Batch>> {
        let mut queue = self.shared.queue();
        loop {
            let at = queue.slots.iter().position(|slot| *slot.request == *request)?;
            if matches!(queue.slots[at].state, State::Working) {
                queue = self.shared.wait(queue);
                continue;
            }
            return match queue.slots.remove(at)?.state {
                State::Ready(batch) => Some(batch),
                State::Waiting | State::Working => None,
            };
        }
    }
}

impl Drop for Prefetcher {
    fn drop(&mut self) {
        self.shared.queue().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The thread catches panics of collation, and does nothing else that can fail.
            drop(thread.join());
        }
    }
}

/// Collates the requests, in order, until the dataset is dropped.
fn work(shared: &Shared, samples: &Samples) {
    let mut queue = shared.queue();
    while !queue.is_closed {
        let Some(slot) = queue.slots.iter_mut().find(|slot| matches!(slot.state, State::Waiting)) else {
            queue = shared.wait(queue);
            continue;
        };
        slot.state = State::Working;
        let request = Arc::clone(&slot.request);
        drop(queue);
        let collated =
            catch_unwind(AssertUnwindSafe(|| samples.collate(&request.indices, &request.lambda, &request.options)));
        queue = shared.queue();
        if let Some(at) = queue.slots.iter().position(|slot| Arc::ptr_eq(&slot.request, &request)) {
            match collated {
                Ok(batch) => queue.slots[at].state = State::Ready(batch),
                // The caller will meet the same panic when it collates the batch itself.
                Err(_) => drop(queue.slots.remove(at)),
            }
        }
        shared.changed.notify_all();
    }
}
