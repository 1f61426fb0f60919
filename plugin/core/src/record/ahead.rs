//! Rows read ahead on a thread, in chunks of bounded size.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::reader::{Row, RowReader};
use crate::{Error, Result};

/// A chunk ends after this many rows, enough to share among threads, or this much text, to bound the memory.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that are read before they are asked for.
const CHUNKS_AHEAD: usize = 2;

/// The rows of files in chunks, in order.
#[derive(Debug)]
pub(crate) struct RowChunks {
    /// None once everything was received.
    chunks: Option<Receiver<Result<Vec<Row>>>>,
    thread: Option<JoinHandle<()>>,
}

impl RowChunks {
    /// Opens the files and starts to read at most `max_rows` of their rows.
    pub(crate) fn open(paths: &[PathBuf], max_rows: Option<u64>) -> Result<Self> {
        let limit = usize::try_from(max_rows.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        let rows = RowReader::open(paths)?.take(limit);
        let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
        let thread = thread::Builder::new()
            .name("lambda-dpo-read".into())
            .spawn(move || send(rows, &sender))
            .map_err(|source| Error::Thread { purpose: "read ahead", source })?;
        Ok(Self { chunks: Some(chunks), thread: Some(thread) })
    }

    /// Waits for the thread to end and passes its panic on, if any.
    fn join(&mut self) {
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            resume_unwind(panic);
        }
    }
}

impl Iterator for RowChunks {
    type Item = Result<Vec<Row>>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self.chunks.as_ref()?.recv();
        if received.is_err() {
            self.chunks = None;
            self.join();
        }
        received.ok()
    }
}

impl Drop for RowChunks {
    fn drop(&mut self) {
        // Without a receiver, a thread that waits to send stops.
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            // A panic while reading rows that are no longer wanted does not matter.
            drop(thread.join());
        }
    }
}

/// Sends chunks until the rows end or fail, or the receiver is dropped.
fn send(mut rows: impl Iterator<Item = Result<Row>>, sender: &SyncSender<Result<Vec<Row>>>) {
    loop {
        let (mut chunk, mut num_bytes) = (Vec::new(), 0);
        let stopped = loop {
            match rows.next() {
                Some(Ok(row)) => {
                    num_bytes += row.json.len();
                    chunk.push(row);
                }
                Some(Err(error)) => break Some(Err(error)),
                None => break Some(Ok(())),
            }
            if chunk.len() == CHUNK_ROWS || num_bytes >= CHUNK_BYTES {
                break None;
            }
        };
        let heard = chunk.is_empty() || sender.send(Ok(chunk)).is_ok();
        match stopped {
            None if heard => {}
            Some(Err(error)) if heard => {
                let _ = sender.send(Err(error));
                return;
            }
            _ => return,
        }
    }
}
