//! Checks the lengths in a Parquet file before the parquet crate trusts them: it makes room for as many elements as a list in
//! the footer promises, and for as many bytes as a page's header promises, and a process that asks for too much is ended.
//!
//! Footer and page headers are structs in Thrift's [compact protocol], which can be walked without knowing their fields.
//!
//! [compact protocol]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// Length of the footer as a number, and the magic bytes.
const TAIL_BYTES: u64 = 8;
/// Deeper than any of Parquet's structs.
const MAX_DEPTH: usize = 32;
/// Longer than a page's header, statistics included, unless a minimum is a long text: then the header is not checked.
const HEADER_BYTES: u64 = 64 << 10;
/// Fields of a page's header.
const UNCOMPRESSED_SIZE: i16 = 2;
const COMPRESSED_SIZE: i16 = 3;
/// Snappy and LZ4 make at most 255 bytes of one, and the crate writes zeros to all that a header promises first.
const MAX_RATIO: u64 = 255;

type Checked = Result<(), String>;

/// Checks that the lists and texts of the footer fit into it. What is no Parquet file passes: the crate says why.
pub(super) fn check_footer(file: &File) -> io::Result<Checked> {
    let file_bytes = file.metadata()?.len();
    let mut tail = [0; TAIL_BYTES as usize];
    let Some(tail_start) = file_bytes.checked_sub(TAIL_BYTES) else { return Ok(Ok(())) };
    file.read_exact_at(&mut tail, tail_start)?;
    let [a, b, c, d, ..] = tail;
    let footer_bytes = u64::from(u32::from_le_bytes([a, b, c, d]));
    let Some(start) = tail_start.checked_sub(footer_bytes) else { return Ok(Ok(())) };
    let mut footer = vec![0; usize::try_from(footer_bytes).unwrap_or(0)];
    file.read_exact_at(&mut footer, start)?;
    let walked = Walker { bytes: &footer, at: 0 }.structure(MAX_DEPTH, &mut |_, _| ());
    Ok(walked.ok_or_else(|| "its footer promises more than it holds".to_owned()))
}

/// Checks that no page of the columns promises more than its bytes can be decompressed to.
pub(super) fn check_pages(
    file: &File,
    metadata: &ParquetMetaData,
    is_read: impl Fn(usize) -> bool,
) -> io::Result<Checked> {
    for group in metadata.row_groups() {
        for (index, column) in group.columns().iter().enumerate() {
            let zeroed = matches!(column.compression(), Compression::SNAPPY | Compression::LZ4 | Compression::LZ4_RAW);
            if zeroed
                && is_read(index)
                && let Err(problem) = check_chunk(file, column)?
            {
                return Ok(Err(problem));
            }
        }
    }
    Ok(Ok(()))
}

fn check_chunk(file: &File, column: &ColumnChunkMetaData) -> io::Result<Checked> {
    let file_bytes = file.metadata()?.len();
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let starts = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
    // Where a chunk lies outside of the file, the crate says so.
    let Some((mut at, length)) = starts else { return Ok(Ok(())) };
    let end = at.saturating_add(length).min(file_bytes);
    while at < end {
        let mut header = vec![0; usize::try_from((end - at).min(HEADER_BYTES)).unwrap_or(0)];
        file.read_exact_at(&mut header, at)?;
        let (mut uncompressed, mut compressed) = (0, 0);
        let mut walker = Walker { bytes: &header, at: 0 };
        let walked = walker.structure(MAX_DEPTH, &mut |field, value| match field {
            UNCOMPRESSED_SIZE => uncompressed = value,
            COMPRESSED_SIZE => compressed = value,
            _ => {}
        });
        let sizes = u64::try_from(uncompressed).ok().zip(u64::try_from(compressed).ok());
        let (Some(()), Some((uncompressed, compressed))) = (walked, sizes) else { return Ok(Ok(())) };
        if uncompressed > MAX_RATIO.saturating_mul(compressed.saturating_add(1)) {
            return Ok(Err(format!(
                "a page of column {} promises {uncompressed} bytes of {compressed} compressed ones",
                column.column_path()
            )));
        }
        at = at.saturating_add(walker.at as u64).saturating_add(compressed);
    }
    Ok(Ok(()))
}

/// Walks through values; each step returns None if they do not fit into the bytes.
struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walker<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, length: u64) -> Option<()> {
        let left = self.bytes.len() - self.at;
        self.at += usize::try_from(length).ok().filter(|length| *length <= left)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        self.varint().map(|value| (value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Walks through a struct, and calls `found` with the id and value of each of its own integers.
    fn structure(&mut self, depth: usize, found: &mut dyn FnMut(i16, i64)) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let mut field = 0_i16;
        loop {
            let header = self.byte()?;
            let (delta, kind) = (header >> 4, header & 0x0F);
            if kind == 0 {
                return Some(());
            }
            field =
                if delta == 0 { i16::try_from(self.zigzag()?).ok()? } else { field.checked_add(i16::from(delta))? };
            match kind {
                // A boolean field is its kind.
                1 | 2 => {}
                4..=6 => found(field, self.zigzag()?),
                _ => self.value(kind, depth)?,
            }
        }
    }

    /// Walks through a value of a kind, of a field or of a list.
    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => self.varint().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => {
                let header = self.byte()?;
                let count = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
                self.elements(count, &[header & 0x0F], depth)
            }
            11 => match self.varint()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    self.elements(count, &[kinds >> 4, kinds & 0x0F], depth)
                }
            },
            12 => self.structure(depth, &mut |_, _| ()),
            13 => self.skip(16),
            _ => None,
        }
    }

    /// Walks through the elements of a list or map, each of which takes a byte at least.
    fn elements(&mut self, count: u64, kinds: &[u8], depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        if count > (self.bytes.len() - self.at) as u64 {
            return None;
        }
        for _ in 0..count {
            for kind in kinds {
                self.value(*kind, depth)?;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A struct with field 1, a list of texts, and field 2, an integer; `count` is the list's header and length.
    fn structure(count: &[u8]) -> Vec<u8> {
        [&[0x19], count, b"\x01a\x02bc", &[0x15, 0x54, 0x00]].concat()
    }

    #[test]
    fn what_fits_is_walked_through() {
        let bytes = structure(&[0x28]);
        let mut walker = Walker { bytes: &bytes, at: 0 };
        let mut found = Vec::new();
        walker.structure(MAX_DEPTH, &mut |field, value| found.push((field, value))).unwrap();
        assert_eq!((walker.at, found), (bytes.len(), vec![(2, 42)]));
    }

    #[test]
    fn a_list_that_promises_too_much_is_noticed() {
        for count in [&[0xF8, 0xFF, 0xFF, 0xFF, 0xFF, 0x07][..], &[0xF8, 0x7F], &[0xE8], &[0xF8, 0xFF]] {
            let bytes = structure(count);
            assert!(Walker { bytes: &bytes, at: 0 }.structure(MAX_DEPTH, &mut |_, _| ()).is_none(), "{count:?}");
        }
        // Structs in structs without end.
        assert!(Walker { bytes: &[0x1C; 100_000], at: 0 }.structure(MAX_DEPTH, &mut |_, _| ()).is_none());
    }
}
