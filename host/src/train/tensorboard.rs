//! TensorBoard's event file: length-prefixed, checksummed protobuf messages, of which scalars need six fields.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
const EVENT_WALL_TIME: u8 = 1;
const EVENT_STEP: u8 = 2;
const EVENT_FILE_VERSION: u8 = 3;
const EVENT_SUMMARY: u8 = 5;
const EVENT_SESSION_LOG: u8 = 7;
const SUMMARY_VALUE: u8 = 1;
const VALUE_TAG: u8 = 1;
const VALUE_SIMPLE_VALUE: u8 = 2;
const SESSION_LOG_STATUS: u8 = 1;
const STATUS_START: u64 = 1;

/// Appends scalars to an event file of its own.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// A new file in `folder`. `first_step` is the first that will be written: TensorBoard forgets what older files of
    /// the folder say from there on.
    ///
    /// # Errors
    ///
    /// The folder or file cannot be made.
    pub fn create(folder: &Path, first_step: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("events.out.tfevents.{:010}.lambda-dpo.{}", wall_time() as u64, std::process::id());
        let mut writer = Self { file: File::create(folder.join(name))? };
        writer.write_event(0, |event| bytes_field(event, EVENT_FILE_VERSION, b"brain.Event:2"))?;
        let mut session = Vec::new();
        varint_field(&mut session, SESSION_LOG_STATUS, STATUS_START);
        writer.write_event(first_step, |event| bytes_field(event, EVENT_SESSION_LOG, &session))?;
        Ok(writer)
    }

    /// Writes the scalars of one step.
    ///
    /// # Errors
    ///
    /// The disk refuses.
    pub fn scalars<'a>(&mut self, step: u64, scalars: impl Iterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            bytes_field(&mut entry, VALUE_TAG, tag.as_bytes());
            entry.push(VALUE_SIMPLE_VALUE << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            bytes_field(&mut summary, SUMMARY_VALUE, &entry);
        }
        self.write_event(step, |event| bytes_field(event, EVENT_SUMMARY, &summary))
    }

    fn write_event(&mut self, step: u64, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut event = vec![EVENT_WALL_TIME << 3 | 1];
        event.extend(wall_time().to_le_bytes());
        varint_field(&mut event, EVENT_STEP, step);
        fill(&mut event);
        self.file.write_all(&frame(&event))
    }
}

/// A record of the TFRecord format: length, its checksum, data, its checksum.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted as TFRecord does, so that checksums of checksums stay strong.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint_field(message: &mut Vec<u8>, field: u8, value: u64) {
    message.push(field << 3);
    varint(message, value);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn checksums_are_those_of_tfrecord() {
        // CRC-32C("123456789") = 0xe3069283
        let crc: u32 = 0xe306_9283;
        assert_eq!(masked_crc(b"123456789"), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn an_event_file_holds_version_session_and_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), 301).unwrap();
        writer.scalars(301, [("loss", 0.5)].into_iter()).unwrap();
        drop(writer);
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        let mut events = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let (record, tail) = rest.split_at(12 + length + 4);
            assert_eq!(record, frame(&record[12..12 + length]));
            // Behind wall time (tag and 8 bytes).
            events.push(record[12 + 9..12 + length].to_vec());
            rest = tail;
        }
        assert_eq!(events[0], b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(events[1], b"\x10\xad\x02\x3a\x02\x08\x01");
        assert_eq!(events[2], b"\x10\xad\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
    }
}
