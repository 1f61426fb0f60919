//! Rows read on a thread of their own, ahead of whoever parses them, by chunks of bounded size.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::{Row, RowReader};
use crate::{Error, Result};

/// A chunk ends at whichever comes first: enough rows to share among threads, or as much text as should be in memory.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 8 << 20;
/// Chunks that wait for whoever parses them.
const CHUNKS_AHEAD: usize = 2;

/// Chunks of the rows of files, in order.
#[derive(Debug)]
pub(crate) struct RowChunks {
    /// None once everything has been received.
    chunks: Option<Receiver<Result<Vec<Row>>>>,
    thread: Option<JoinHandle<()>>,
}

impl RowChunks {
    /// Opens the files and begins to read at most `max_rows` of their rows.
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

    /// Waits for the thread; what stopped it short of the end stops the caller too.
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
        // A thread that waits to send stops once there is nobody to send to.
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            // A panic of rows that nobody wants is nobody's problem.
            drop(thread.join());
        }
    }
}

/// Sends chunks until the rows end or fail, or nobody listens any more.
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
