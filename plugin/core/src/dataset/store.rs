//! Tokenised samples on disk: written once, in order, and read in any order. Only an index is in memory.
//!
//! | bytes | what |
//! |---|---|
//! | [`MAGIC`] | type and version of the file |
//! | samples | each as two [postcard](https://docs.rs/postcard) values: its tokens, and the rest |
//! | footer | [`Footer`] as postcard: the key, the counts, and the end of each sample |
//! | 8 | start of the footer, little-endian |
//! | 32 | BLAKE3 of everything before |
//!
//! A file in a cache folder appears complete or not at all. Its writer holds a lock on it until then, which
//! distinguishes the file of a running process from one that a killed process left behind.

use std::fs::{File, Permissions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::{Error, Report, Result, TokenizedResponse, TokenizedSample};

const MAGIC: &[u8; 24] = b"lambda-dpo samples v. 3\n";
const PARTIAL_PREFIX: &str = ".partial-";
const LOCK_FILE: &str = ".lock";
const BUFFER_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4 << 20;
const HASH_BYTES: u64 = blake3::OUT_LEN as u64;
const TRAILER_BYTES: u64 = size_of::<u64>() as u64 + HASH_BYTES;

/// Input of a sample's content hash: everything that log-probs depend on besides the model, and no ratings.
#[derive(Serialize)]
struct Tokens<'a> {
    prompt: &'a [i64],
    responses: &'a [TokenizedResponse],
}

#[derive(Serialize)]
struct Targets<'a> {
    record_index: u64,
    num_dimensions: usize,
    pi_target: &'a [f32],
    ranks: &'a [i64],
}

/// Properties of a sample by which callers sort, pack and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleInfo {
    /// Index of the record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Number of tokens of the prompt (once) and of all responses.
    pub num_tokens: usize,
    /// First 128 bits of BLAKE3 of the tokens of the prompt and of each response, with its targets: everything that
    /// log-probs depend on besides the model.
    pub content_hash: [u8; 16],
}

/// Place of a sample in the file.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    info: SampleInfo,
    end: u64,
}

/// Index and metadata after the samples.
#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    key: [u8; blake3::OUT_LEN],
    dimensions: Vec<String>,
    report: Report,
    /// BLAKE3 of the hashes of all samples.
    samples_hash: [u8; blake3::OUT_LEN],
    /// Tokens of the longest prompt with one response.
    longest_sequence: usize,
    entries: Vec<Entry>,
}

/// A complete file, for reading samples.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    path: PathBuf,
    footer: Footer,
}

/// The file at a path of a cache.
pub(super) enum Found {
    Nothing,
    /// A file that cannot be used, and why.
    Damaged(String),
    Whole(Box<Store>),
}

impl Store {
    /// Opens a file of a cache and checks all its contents.
    pub(super) fn open(path: &Path, key: &blake3::Hash) -> Found {
        // A pipe would keep the process waiting for whoever writes to it.
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return Found::Damaged("it is no regular file".to_owned());
        }
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
            Err(error) => return Found::Damaged(error.to_string()),
        };
        let found = match read_footer(&file) {
            Ok(Ok(footer)) if footer.key == *key.as_bytes() => {
                return Found::Whole(Box::new(Self { file, path: path.to_owned(), footer }));
            }
            Ok(Ok(_)) => "it belongs to other records or options than its name says".to_owned(),
            Ok(Err(problem)) => problem.to_owned(),
            Err(error) => error.to_string(),
        };
        Found::Damaged(found)
    }

    pub(super) fn len(&self) -> usize {
        self.footer.entries.len()
    }

    pub(super) fn dimensions(&self) -> &[String] {
        &self.footer.dimensions
    }

    pub(super) fn report(&self) -> &Report {
        &self.footer.report
    }

    pub(super) fn samples_hash(&self) -> blake3::Hash {
        self.footer.samples_hash.into()
    }

    pub(super) fn longest_sequence(&self) -> usize {
        self.footer.longest_sequence
    }

    pub(super) fn infos(&self) -> impl ExactSizeIterator<Item = SampleInfo> + '_ {
        self.footer.entries.iter().map(|entry| entry.info)
    }

    /// Reads a sample. Returns None beyond the last one.
    pub(super) fn read(&self, index: usize) -> Result<Option<TokenizedSample>> {
        let Some(entry) = self.footer.entries.get(index) else { return Ok(None) };
        let start = match index {
            0 => MAGIC.len() as u64,
            _ => self.footer.entries[index - 1].end,
        };
        let mut bytes = vec![0; usize::try_from(entry.end.saturating_sub(start)).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, start).map_err(|source| Error::io(&self.path, source))?;
        match decode(&bytes) {
            Some(sample) => Ok(Some(sample)),
            None => Err(Error::InvalidData(format!(
                "{}: sample {index} was damaged since the file was opened; remove it and run again",
                self.path.display()
            ))),
        }
    }
}

/// Reads the footer of a file, after checking the file's checksum.
fn read_footer(file: &File) -> io::Result<std::result::Result<Footer, &'static str>> {
    let len = file.metadata()?.len();
    let mut magic = [0; MAGIC.len()];
    if len < MAGIC.len() as u64 + TRAILER_BYTES {
        return Ok(Err("it is cut short"));
    }
    file.read_exact_at(&mut magic, 0)?;
    let mut checksum = [0; blake3::OUT_LEN];
    file.read_exact_at(&mut checksum, len - HASH_BYTES)?;
    if magic != *MAGIC || hash_file(&mut Read::take(file, len - HASH_BYTES), &mut || Ok(()))? != checksum {
        return Ok(Err("its checksum is wrong"));
    }
    let mut start = [0; size_of::<u64>()];
    file.read_exact_at(&mut start, len - TRAILER_BYTES)?;
    let start = u64::from_le_bytes(start);
    let footer_len = (len - TRAILER_BYTES).checked_sub(start).and_then(|bytes| usize::try_from(bytes).ok());
    let Some(footer_len) = footer_len else { return Ok(Err("its footer lies beyond its end")) };
    let mut footer = vec![0; footer_len];
    file.read_exact_at(&mut footer, start)?;
    Ok(postcard::from_bytes(&footer).map_err(|_| "its footer does not parse"))
}

/// Returns BLAKE3 of a reader's bytes; `tick` is called between blocks and may stop it.
pub(super) fn hash_file(reader: &mut impl Read, tick: &mut dyn FnMut() -> io::Result<()>) -> io::Result<blake3::Hash> {
    // Blocks are large enough to be hashed on several threads.
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut hasher = blake3::Hasher::new();
    while reader.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)? > 0 {
        hasher.update_rayon(&block);
        block.clear();
        tick()?;
    }
    Ok(hasher.finalize())
}

/// A sample as bytes.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    hash: blake3::Hash,
    info: SampleInfo,
    longest_sequence: usize,
}

impl Encoded {
    pub(super) fn new(sample: &TokenizedSample) -> Result<Self> {
        Self::encode(sample)
            .map_err(|error| Error::InvalidData(format!("record {}: cannot be written: {error}", sample.record_index)))
    }

    fn encode(sample: &TokenizedSample) -> postcard::Result<Self> {
        let tokens = postcard::to_stdvec(&Tokens { prompt: &sample.prompt, responses: &sample.responses })?;
        let mut content_hash = [0; 16];
        blake3::Hasher::new().update(&tokens).finalize_xof().fill(&mut content_hash);
        let info = SampleInfo {
            record_index: sample.record_index,
            num_responses: sample.responses.len(),
            num_tokens: sample.num_tokens(),
            content_hash,
        };
        let pi_target: Vec<f32> = sample.pi_target.iter().copied().collect();
        let ranks: Vec<i64> = sample.ranks.iter().copied().collect();
        let num_dimensions = sample.pi_target.nrows();
        let targets =
            Targets { record_index: sample.record_index, num_dimensions, pi_target: &pi_target, ranks: &ranks };
        let bytes = postcard::to_extend(&targets, tokens)?;
        Ok(Self { hash: blake3::hash(&bytes), bytes, info, longest_sequence: sample.longest_sequence() })
    }
}

fn decode(bytes: &[u8]) -> Option<TokenizedSample> {
    let ((prompt, responses), rest): ((Vec<i64>, Vec<TokenizedResponse>), _) = postcard::take_from_bytes(bytes).ok()?;
    let (record_index, num_dimensions, pi_target, ranks): (u64, usize, Vec<f32>, Vec<i64>) =
        postcard::from_bytes(rest).ok()?;
    let shape = (num_dimensions, pi_target.len().checked_div(num_dimensions).unwrap_or(0));
    let pi_target = Array2::from_shape_vec(shape, pi_target).ok()?;
    let ranks = Array2::from_shape_vec(shape, ranks).ok()?;
    Some(TokenizedSample { record_index, prompt, responses, pi_target, ranks })
}

/// Updates a file's checksum as bytes are written.
#[derive(Debug)]
struct Summed {
    file: File,
    hasher: blake3::Hasher,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update_rayon(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Writes samples one by one.
#[derive(Debug)]
pub(super) struct Writer {
    out: BufWriter<Summed>,
    /// The temporary file and its final path; None for an unnamed file.
    named: Option<(NamedTempFile, PathBuf)>,
    /// For messages.
    path: PathBuf,
    entries: Vec<Entry>,
    end: u64,
    longest_sequence: usize,
    samples: blake3::Hasher,
}

impl Writer {
    /// Starts a file that will be at `path`, in a folder that is created if missing.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let begin = || -> io::Result<(NamedTempFile, File)> {
            std::fs::create_dir_all(folder)?;
            locked(folder, || {
                sweep(folder)?;
                // As readable as the umask allows: a cache may be shared.
                let permissions = Permissions::from_mode(0o666);
                let partial =
                    tempfile::Builder::new().prefix(PARTIAL_PREFIX).permissions(permissions).tempfile_in(folder)?;
                partial.as_file().lock()?;
                let file = partial.as_file().try_clone()?;
                Ok((partial, file))
            })
        };
        let (partial, file) = begin().map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        Self::new(file, path, Some((partial, path.to_owned())))
    }

    /// Starts an unnamed file in `folder`, which is gone with its last handle.
    pub(super) fn unnamed(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        Self::new(file, folder, None)
    }

    fn new(file: File, path: &Path, named: Option<(NamedTempFile, PathBuf)>) -> Result<Self> {
        let out = BufWriter::with_capacity(BUFFER_BYTES, Summed { file, hasher: blake3::Hasher::new() });
        let mut writer = Self {
            out,
            named,
            path: path.to_owned(),
            entries: Vec::new(),
            end: 0,
            longest_sequence: 0,
            samples: blake3::Hasher::new(),
        };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    /// Appends a sample.
    pub(super) fn push(&mut self, sample: &Encoded) -> Result<()> {
        self.samples.update(sample.hash.as_bytes());
        self.write(&sample.bytes)?;
        self.longest_sequence = self.longest_sequence.max(sample.longest_sequence);
        self.entries.push(Entry { info: sample.info, end: self.end });
        Ok(())
    }

    /// Returns the number of samples so far.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.end += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Completes the file and moves it to its path.
    pub(super) fn finish(mut self, key: &blake3::Hash, dimensions: &[String], report: Report) -> Result<Store> {
        self.entries.shrink_to_fit();
        let footer = Footer {
            key: *key.as_bytes(),
            dimensions: dimensions.to_vec(),
            report,
            samples_hash: *self.samples.finalize().as_bytes(),
            longest_sequence: self.longest_sequence,
            entries: std::mem::take(&mut self.entries),
        };
        let start = self.end;
        let encoded = postcard::to_stdvec(&footer)
            .map_err(|error| Error::InvalidData(format!("the samples' index cannot be written: {error}")))?;
        self.write(&encoded)?;
        self.write(&start.to_le_bytes())?;
        let path = self.path;
        let failed = |source| Error::Write { path: path.clone(), source };
        let Summed { mut file, hasher } =
            self.out.into_inner().map_err(|error| failed(io::IntoInnerError::into_error(error)))?;
        file.write_all(hasher.finalize().as_bytes()).map_err(failed)?;
        if let Some((partial, path)) = self.named {
            file.sync_all().map_err(failed)?;
            partial.persist(&path).map_err(|error| failed(error.error))?;
        }
        Ok(Store { file, path, footer })
    }
}

/// Removes what killed processes left in a cache that is only read, and may be one where nothing can be removed.
pub(super) fn tidy(folder: &Path) {
    let mut names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if names.any(|name| name.to_string_lossy().starts_with(PARTIAL_PREFIX)) {
        let _ = locked(folder, || sweep(folder));
    }
}

/// Does something in a folder of a cache while no other process begins a file there: until it is locked, a new file looks
/// abandoned.
fn locked<T>(folder: &Path, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let guard = File::create(folder.join(LOCK_FILE))?;
    guard.lock()?;
    act()
}

/// Removes unfinished files that no process is writing.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PARTIAL_PREFIX) {
            continue;
        }
        // It was just renamed or removed.
        let Ok(file) = File::open(entry.path()) else { continue };
        match file.try_lock() {
            Ok(()) => std::fs::remove_file(entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}
