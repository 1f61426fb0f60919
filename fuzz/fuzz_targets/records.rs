//! Record parsing and conversion: any bytes as one record, and as a file of them.
#![no_main]
#![expect(clippy::expect_used, reason = "a target cannot go on without its files")]

use std::io::Write;

use lambda_dpo_core::convert::convert_record;
use lambda_dpo_core::{ConvertOptions, Format, MissingRating, Sample, SampleReader};
use libfuzzer_sys::fuzz_target;

const FORMATS: [Format; 4] = [Format::UltraFeedback, Format::Pairs, Format::Chat, Format::Rankings];

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let options = ConvertOptions {
        best_worst_pairs: choice & 4 != 0,
        keep_all: choice & 12 == 8,
        missing_rating: if choice & 16 == 0 { MissingRating::Mask } else { MissingRating::Value(1.0) },
        ..ConvertOptions::new(FORMATS[usize::from(choice & 3)])
    };
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(Some(sample)) = convert_record(text, 0, &options)
    {
        // A sample that is written must read back unchanged.
        let json = sample.to_json().expect("every sample can be written");
        let read = Sample::from_json(&json).expect("a sample that was written can be read");
        assert_eq!(read.to_json().expect("every sample can be written"), json);
    }
    if choice & 32 != 0 {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(data).expect("a temporary file");
        if let Ok(reader) = SampleReader::open(&[file.path().to_owned()], options) {
            reader.for_each(drop);
        }
    }
});
