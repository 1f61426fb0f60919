//! A record file as a stream of text: decompressed, without a byte order mark, and named as what it is if it holds no
//! records.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Result};

const BUFFER_BYTES: usize = 256 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
const GZIP: &[u8] = &[0x1F, 0x8B];
const ZSTD: &[u8] = &[0x28, 0xB5, 0x2F, 0xFD];
const PARQUET: &[u8] = b"PAR1";

/// First bytes of files that hold no records as they are: what the file is, and the way out.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip archive: unpack it and name the files in it"),
    (b"\xFD7zXZ\0", "compressed with xz: decompress it (unxz), or compress it with gzip or zstd"),
    (b"BZh", "compressed with bzip2: decompress it (bunzip2), or compress it with gzip or zstd"),
    (b"7z\xBC\xAF\x27\x1C", "a 7z archive: unpack it and name the files in it"),
    (b"\x04\x22\x4D\x18", "compressed with lz4: decompress it (unlz4), or compress it with gzip or zstd"),
    (b"ARROW1", "an Arrow file: write it as Parquet (in Python, pyarrow.parquet.write_table, or Dataset.to_parquet)"),
    (b"FEA1", "a Feather file: write it as Parquet (in Python, pandas.read_feather(…).to_parquet(…))"),
    (
        b"\xFF\xFF\xFF\xFF",
        "an Arrow stream: write it as Parquet (in Python, pyarrow.parquet.write_table, or Dataset.to_parquet)",
    ),
    (b"ORC", "an ORC file: write it as Parquet"),
    (b"Obj\x01", "an Avro file: write it as JSON lines or Parquet"),
    (b"SQLite format 3\0", "an SQLite database: write the table as JSON lines or Parquet"),
    (b"%PDF", "a PDF: records are JSON lines, a JSON array or Parquet"),
    (b"\x93NUMPY", "a NumPy array: records are JSON lines, a JSON array or Parquet"),
    (b"\xFF\xFE\0\0", "UTF-32 text: convert it (iconv -f UTF-32 -t UTF-8)"),
    (b"\0\0\xFE\xFF", "UTF-32 text: convert it (iconv -f UTF-32 -t UTF-8)"),
    (b"\xFF\xFE", "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)"),
    (b"\xFE\xFF", "UTF-16 text: convert it (iconv -f UTF-16 -t UTF-8)"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
];

/// A file, opened.
#[derive(Debug)]
pub(super) enum Source {
    /// Parquet, which is not read in order.
    Parquet,
    /// UTF-8 text, presumably.
    Text(Text),
}

/// A stream of text.
pub(super) struct Text(BufReader<Box<dyn Read + Send>>);

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Text")
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Text {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl Source {
    /// Opens a file; gzip and zstd are decompressed while it is read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let file = File::open(path).map_err(io)?;
        let mut raw = BufReader::with_capacity(BUFFER_BYTES, file);
        let start = raw.fill_buf().map_err(io)?;
        refuse_foreign(path, start, "")?;
        let named_parquet = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"));
        if start.starts_with(PARQUET) || named_parquet {
            return Ok(Self::Parquet);
        }
        let (reader, packing): (Box<dyn Read + Send>, _) = if start.starts_with(GZIP) {
            (
                Box::new(Decompressed { decoder: MultiGzDecoder::new(raw), packing: "gzip" }),
                "compressed with gzip, and ",
            )
        } else if start.starts_with(ZSTD) {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(io)?;
            (Box::new(Decompressed { decoder, packing: "zstd" }), "compressed with zstd, and ")
        } else {
            (Box::new(raw), "")
        };
        let mut text = Text(BufReader::with_capacity(BUFFER_BYTES, reader));
        let start = text.fill_buf().map_err(io)?;
        if !packing.is_empty() {
            refuse_foreign(path, start, packing)?;
            if start.starts_with(PARQUET) {
                return Err(foreign(path, packing, "a Parquet file inside: decompress it first"));
            }
        }
        if start.starts_with(BYTE_ORDER_MARK) {
            text.consume(BYTE_ORDER_MARK.len());
        }
        Ok(Self::Text(text))
    }
}

fn foreign(path: &Path, packing: &str, what: &str) -> Error {
    Error::InvalidData(format!("{} is {packing}{what}", path.display()))
}

/// Fails if the first bytes of a file are those of one that holds no records.
fn refuse_foreign(path: &Path, start: &[u8], packing: &str) -> Result<()> {
    if let Some((_, what)) = FOREIGN.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Err(foreign(path, packing, what));
    }
    let text = start.strip_prefix(BYTE_ORDER_MARK).unwrap_or(start).trim_ascii_start();
    let begins = |word: &str| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()));
    if begins("<!doctype html") || begins("<html") {
        return Err(foreign(
            path,
            packing,
            "an HTML page, not the file itself: download it again, and check the address",
        ));
    }
    let extension = path.extension().unwrap_or_default();
    for (name, what) in [("csv", "comma-separated"), ("tsv", "tab-separated")] {
        if extension.eq_ignore_ascii_case(name)
            && !text.is_empty()
            && !text.starts_with(b"{")
            && !text.starts_with(b"[")
        {
            let what = format!("a table of {what} values: write it as JSON lines or Parquet");
            return Err(foreign(path, packing, &what));
        }
    }
    Ok(())
}

/// A decoder whose errors say what it decodes.
struct Decompressed<D> {
    decoder: D,
    packing: &'static str,
}

impl<D: Read> Read for Decompressed<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("the {} data is damaged or cut short: {error}", self.packing)),
        })
    }
}
