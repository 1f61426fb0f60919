//! TensorBoard's event files: protobuf messages in TFRecord frames. Only the six fields that scalars need are declared.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::{Message, Oneof};

/// From tensorflow/core/util/event.proto.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// From event.proto; status 1 is START.
#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// From tensorflow/core/framework/summary.proto.
#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, so that zeros are written too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// Appends scalars to a new event file.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Creates a file in `folder`. TensorBoard ignores what older files of the folder have from `first_step` on.
    ///
    /// # Errors
    ///
    /// Returns an error if the folder or file cannot be created.
    pub fn create(folder: &Path, first_step: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let name = format!("events.out.tfevents.{:010}.lambda-dpo.{}", wall_time() as u64, std::process::id());
        let mut writer = Self { file: File::create(folder.join(name))? };
        writer.write(0, What::FileVersion("brain.Event:2".into()))?;
        writer.write(first_step, What::SessionLog(SessionLog { status: 1 }))?;
        Ok(writer)
    }

    /// Writes the scalars of one step.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn scalars<'a>(&mut self, step: u64, scalars: impl Iterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let value = scalars.map(|(tag, value)| Value { tag: tag.into(), simple_value: Some(value as f32) }).collect();
        self.write(step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let event = Event { wall_time: wall_time(), step: step.cast_signed(), what: Some(what) };
        self.file.write_all(&frame(&event.encode_to_vec()))
    }
}

/// Returns a record in TFRecord format: length, checksum of the length, data, checksum of the data.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// Returns the CRC-32C, rotated and shifted as TFRecord requires, so that checksums of checksums stay strong.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

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
            // After the wall time (tag and 8 bytes).
            events.push(record[12 + 9..12 + length].to_vec());
            rest = tail;
        }
        // Step 0 is protobuf's default and is not encoded.
        assert_eq!(events[0], b"\x1a\x0dbrain.Event:2");
        assert_eq!(events[1], b"\x10\xad\x02\x3a\x02\x08\x01");
        assert_eq!(events[2], b"\x10\xad\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\x00\x3f");
    }
}
