//! From records to batches, and λ schedules: the core directly, and through the table.

use std::path::PathBuf;
use std::ptr::null;
use std::sync::Arc;

use lambda_dpo_abi as abi;
use lambda_dpo_core as core;
use lambda_dpo_tests::table::{self, Failure, Handle, api, checked};
use lambda_dpo_tests::{batch_fields, fixture};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json as value};
use tch::Tensor;

use crate::records::{any_record, rated, text, usable};

/// Options for the core and for the table.
#[derive(Clone, Debug)]
pub struct Options {
    format: core::Format,
    best_worst_pairs: bool,
    dimensions: Option<Vec<String>>,
    missing_rating: f64,
    temperature: f64,
    exclude_sources: Vec<String>,
    keep_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            format: core::Format::UltraFeedback,
            best_worst_pairs: false,
            dimensions: None,
            missing_rating: f64::NAN,
            temperature: 1.0,
            exclude_sources: Vec::new(),
            keep_all: false,
        }
    }
}

pub fn options() -> impl Strategy<Value = Options> {
    let dimensions = select(vec![None, Some(vec!["honesty", "helpfulness"]), Some(vec!["λ"]), Some(vec![])]);
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    (
        select(vec![core::Format::UltraFeedback, core::Format::Pairs, core::Format::Chat, core::Format::Rankings]),
        prop::bool::weighted(0.2),
        dimensions.prop_map(move |names| names.map(owned)),
        select(vec![f64::NAN, 1.0, f64::INFINITY]),
        select(vec![1.0, 0.3, 0.0, -1.0, f64::NAN]),
        select(vec![vec![], vec!["truthful_qa"]]).prop_map(owned),
        prop::bool::weighted(0.2),
    )
        .prop_map(
            |(format, best_worst_pairs, dimensions, missing_rating, temperature, exclude_sources, keep_all)| Options {
                format,
                best_worst_pairs,
                dimensions,
                missing_rating,
                temperature,
                exclude_sources,
                keep_all,
            },
        )
}

impl Options {
    pub fn native(&self) -> core::ConvertOptions {
        core::ConvertOptions {
            format: self.format,
            best_worst_pairs: self.best_worst_pairs,
            dimensions: self.dimensions.clone(),
            missing_rating: match self.missing_rating {
                value if value.is_nan() => core::MissingRating::Mask,
                value => core::MissingRating::Value(value),
            },
            temperature: self.temperature,
            max_samples: None,
            exclude_sources: self.exclude_sources.clone(),
            keep_all: self.keep_all,
        }
    }

    /// Makes a call with the options as the struct of the table.
    pub fn lend<T>(&self, call: impl FnOnce(&abi::ConvertOptions) -> T) -> T {
        let format = match self.format {
            core::Format::UltraFeedback => abi::FORMAT_ULTRAFEEDBACK,
            core::Format::Pairs => abi::FORMAT_PAIRS,
            core::Format::Chat => abi::FORMAT_CHAT,
            core::Format::Rankings => abi::FORMAT_RANKINGS,
        };
        let strs = |texts: &[String]| texts.iter().map(|text| table::text(text)).collect::<Vec<_>>();
        let (names, sources) = (self.dimensions.as_deref().map(strs), strs(&self.exclude_sources));
        call(&abi::ConvertOptions {
            best_worst_pairs: self.best_worst_pairs.into(),
            dimensions: names.as_ref().map_or(null(), |names| names.as_ptr()),
            num_dimensions: names.as_ref().map_or(0, Vec::len),
            missing_rating: self.missing_rating,
            temperature: self.temperature,
            exclude_sources: sources.as_ptr(),
            num_exclude_sources: sources.len(),
            keep_all: self.keep_all.into(),
            ..table::convert_options(format)
        })
    }
}

/// The failure of a call for an error of the core.
fn failure_of(error: &core::Error) -> Failure {
    let status = match error.kind() {
        core::ErrorKind::InvalidArgument => abi::STATUS_INVALID_ARGUMENT,
        core::ErrorKind::Io => abi::STATUS_IO,
        core::ErrorKind::InvalidData => abi::STATUS_INVALID_DATA,
        core::ErrorKind::Unsupported => abi::STATUS_UNSUPPORTED,
        core::ErrorKind::Torch => abi::STATUS_TORCH,
        core::ErrorKind::Cancelled => abi::STATUS_CANCELLED,
    };
    (status, error.to_string())
}

pub fn native<T>(result: core::Result<T>) -> Result<T, Failure> {
    result.map_err(|error| failure_of(&error))
}

pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// Calls `reader_next` until the end or the first error, then `reader_report`.
fn read_all(files: &[PathBuf], options: &Options) -> Result<(Vec<Result<String, Failure>>, String), Failure> {
    let names: Vec<String> = files.iter().map(|file| file.to_str().unwrap().to_owned()).collect();
    let paths: Vec<abi::Str> = names.iter().map(|name| table::text(name)).collect();
    let mut raw = std::ptr::null_mut();
    let mut samples = Vec::new();
    // SAFETY: all pointers are valid; the reader is freed once.
    unsafe {
        options.lend(|options| checked(|e| (api().reader_open)(paths.as_ptr(), paths.len(), options, &mut raw, e)))?;
        let reader = Handle::new(raw, api().reader_free);
        loop {
            let mut bytes = table::no_bytes();
            match checked(|e| (api().reader_next)(reader.raw(), &mut bytes, e)).map(|()| table::take_text(bytes)) {
                Ok(Some(sample)) => samples.push(Ok(sample)),
                Ok(None) => break,
                Err(failure) => {
                    samples.push(Err(failure));
                    break;
                }
            }
        }
        let mut report = table::no_bytes();
        checked(|e| (api().reader_report)(reader.raw(), &mut report, e))?;
        Ok((samples, table::take_text(report).unwrap()))
    }
}

/// The words tokenizer in the core and through the table.
pub fn tokenizers() -> (core::Tokenizer, Handle<abi::Tokenizer>) {
    let folder = fixture("words");
    (core::Tokenizer::open(&folder, None).unwrap(), table::tokenizer_open(&folder).unwrap())
}

/// The fields of a batch in the order of the table.
fn fields(batch: &core::Batch) -> Vec<(&'static str, &Tensor)> {
    macro_rules! listed {
        ($($field:ident),*) => { vec![$((stringify!($field), &batch.$field)),*] };
    }
    batch_fields!(listed)
}

pub fn same_batch(native: &core::Batch, exported: &table::NamedBatch) {
    assert_eq!(native.num_contributing, exported.1);
    for ((name, native), (_, exported)) in fields(native).into_iter().zip(&exported.0) {
        assert_eq!((native.kind(), native.size()), (exported.kind(), exported.size()), "{name}");
        assert_eq!(native, exported, "{name}");
    }
}

pub const LAYOUTS: [(core::Layout, u32); 3] = [
    (core::Layout::Expanded, abi::LAYOUT_EXPANDED),
    (core::Layout::Rows, abi::LAYOUT_ROWS),
    (core::Layout::Packed, abi::LAYOUT_PACKED),
];

/// The functions that the property tests below compare with the core.
pub const COVERED: [(&str, fn()); 21] = [
    ("convert_record", convert_record),
    ("reader_open", readers),
    ("reader_next", readers),
    ("reader_report", readers),
    ("tokenizer_open", tokenizer_calls),
    ("tokenizer_info", tokenizer_calls),
    ("tokenizer_render", tokenizer_calls),
    ("tokenizer_encode", tokenizer_calls),
    ("tokenizer_decode", tokenizer_calls),
    ("decode_stream_new", decode_streams),
    ("decode_stream_step", decode_streams),
    ("decode_stream_finish", decode_streams),
    ("tokenize", tokenize_and_collate),
    ("tokenized_sample_new", tokens_of_a_caller),
    ("tokenized_sample_tokens", tokens_of_a_caller),
    ("collate", tokenize_and_collate),
    ("schedule_new", schedules),
    ("schedule_draw_instance", schedules),
    ("schedule_draw_step", schedules),
    ("renormalize_lambda", renormalized_lambda),
    ("bytes_free", convert_record),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn convert_record(record in any_record(), index in any::<u64>(), options in options()) {
        let exported = options.lend(|options| table::convert_record(&record, index, options));
        let sample = native(core::convert::convert_record(&record, index, &options.native()));
        prop_assert_eq!(exported, sample.map(|sample| sample.map(|sample| json(&sample))));
    }

    /// Tokens of another tokenizer; some lists are inconsistent.
    #[test]
    fn tokens_of_a_caller(
        record in any::<u64>(),
        prompt_ids in prop::collection::vec(0_i64..50, 0..6),
        response_ids in prop::collection::vec(prop::collection::vec(prop_oneof![30 => 0_i64..50, 1 => Just(-1)], 0..4), 0..4),
        indices in prop_oneof![4 => Just(None), 1 => prop::collection::vec(0_usize..4, 0..4).prop_map(Some)],
        targets in prop::collection::vec((1..=9_i32, prop::bool::weighted(0.1)), 0..3),
    ) {
        let n = response_ids.len();
        let row = |(weight, spoilt): &(i32, bool)| -> Vec<Value> {
            // A weight for the first response; the others share the rest equally.
            let first = if n > 1 { f64::from(*weight) / 10.0 } else { 1.0 };
            let share = |i: usize| if i == 0 { value!(first) } else { value!((1.0 - first) / (n - 1) as f64) };
            (0..n + usize::from(*spoilt)).map(share).collect()
        };
        let tokens = value!({
            "record": record,
            "prompt_ids": prompt_ids,
            "response_ids": response_ids,
            "response_indices": indices.unwrap_or_else(|| (0..n).collect()),
            "pi_target": targets.iter().map(row).collect::<Vec<_>>(),
        });
        let tokens = tokens.to_string();
        let exported = table::tokenized(&tokens).and_then(|sample| table::tokens(&sample));
        let native = native(core::TokenizedSample::from_json(&tokens).and_then(|sample| sample.to_json()));
        prop_assert_eq!(exported, native);
    }

    /// λ′ of a batch; some shapes, offsets and weights do not fit.
    #[test]
    fn renormalized_lambda(
        counts in prop::collection::vec(0_i64..4, 0..4),
        m in 0_usize..4,
        off in select(vec![0, 0, 0, 1]),
        rated in prop::collection::vec(any::<bool>(), 64),
        weights in prop::collection::vec(prop_oneof![20 => 0.0..1.0_f64, 4 => Just(0.0), 1 => Just(-1.0), 1 => Just(f64::NAN)], 16),
    ) {
        let mut offsets = vec![0];
        for count in &counts {
            offsets.push(offsets[offsets.len() - 1] + count);
        }
        let (b, c) = (counts.len(), offsets[counts.len()] + off);
        let offsets = Tensor::from_slice(&offsets);
        let mask = Tensor::from_slice(&rated[..m * c as usize]).reshape([m as i64, c]);
        let lambda = Tensor::from_slice(&weights[..b * m]).reshape([b as i64, m as i64]);
        let lent = [&offsets, &mask, &lambda].map(|tensor| abi::tensor::export(tensor).unwrap());
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid; the result is taken once.
        let exported = unsafe {
            let [offsets, mask, lambda] = [0, 1, 2].map(|at: usize| lent[at].as_raw());
            checked(|e| (api().renormalize_lambda)(offsets, mask, lambda, &mut raw, e))
                .map(|()| abi::tensor::import(raw).unwrap())
        };
        match (exported, native(core::renormalize_lambda(&offsets, &mask, &lambda))) {
            (Err(exported), Err(native)) => prop_assert_eq!(exported, native),
            (Ok(exported), Ok(native)) => prop_assert_eq!(exported, native),
            (exported, native) => prop_assert!(false, "{:?}, {:?}", exported, native),
        }
    }

    #[test]
    fn schedules(
        kind in 0_u32..9,
        m in 0_usize..5,
        dimension in 0_u32..6,
        alpha in select(vec![1.0, 0.3, 0.0, f64::NAN]),
        weights in prop::collection::vec(0.0..1.0_f64, 15),
        normalized in prop::bool::weighted(0.8),
        (seed, epoch, index) in any::<(u64, u64, u64)>(),
    ) {
        let mut rows: Vec<Vec<f64>> = weights.chunks(5).map(|row| row[..m].to_vec()).collect();
        if normalized {
            for row in &mut rows {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|weight| *weight /= sum);
            }
        }
        let (flat, probabilities) = (rows.concat(), [0.2, 0.0, 0.5]);
        let options = abi::ScheduleOptions {
            struct_size: size_of::<abi::ScheduleOptions>(),
            kind,
            dimension,
            num_dimensions: m,
            alpha,
            weights: flat.as_ptr(),
            num_rows: 3,
            probabilities: probabilities.as_ptr(),
        };
        let native_kind = match kind {
            abi::SCHEDULE_UNIFORM_NORMALIZED => core::ScheduleKind::UniformNormalized,
            abi::SCHEDULE_DIRICHLET => core::ScheduleKind::Dirichlet { alpha },
            abi::SCHEDULE_GAUSSIAN => core::ScheduleKind::Gaussian,
            abi::SCHEDULE_GAUSSIAN_ABS => core::ScheduleKind::GaussianAbs,
            abi::SCHEDULE_UNIMODAL => core::ScheduleKind::Unimodal { dimension: dimension as usize },
            abi::SCHEDULE_UNIMODAL_CYCLE => core::ScheduleKind::UnimodalCycle,
            abi::SCHEDULE_FIXED => core::ScheduleKind::Fixed { weights: rows[0].clone() },
            _ => core::ScheduleKind::Table { rows: rows.into_iter().zip(probabilities).collect() },
        };
        let mut raw = std::ptr::null_mut();
        // SAFETY: all pointers are valid; the handle is freed once.
        let made = unsafe {
            checked(|e| (api().schedule_new)(&options, &mut raw, e)).map(|()| Handle::new(raw, api().schedule_free))
        };
        if kind > abi::SCHEDULE_TABLE {
            prop_assert_eq!(made.unwrap_err().0, abi::STATUS_INVALID_ARGUMENT);
            return Ok(());
        }
        let schedule = core::Schedule::new(core::ScheduleOptions { kind: native_kind, num_dimensions: m });
        match (made, native(schedule)) {
            (Err(exported), Err(native)) => prop_assert_eq!(exported, native),
            (Ok(exported), Ok(native)) => {
                let (mut instance, mut step) = (vec![f64::NAN; m], vec![f64::NAN; m]);
                // SAFETY: λ has room for M numbers.
                unsafe {
                    let raw = exported.raw();
                    checked(|e| (api().schedule_draw_instance)(raw, seed, epoch, index, instance.as_mut_ptr(), e)).unwrap();
                    checked(|e| (api().schedule_draw_step)(raw, seed, index, step.as_mut_ptr(), e)).unwrap();
                }
                prop_assert_eq!(instance, native.draw_instance(seed, epoch, index));
                prop_assert_eq!(step, native.draw_step(seed, index));
            }
            (exported, native) => prop_assert!(false, "{:?}, {:?}", exported, native),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn readers(records in prop::collection::vec(prop_oneof![9 => rated().prop_map(|r| r.to_string()), 1 => any_record()], 0..6), options in options()) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("records.jsonl");
        std::fs::write(&file, records.join("\n")).unwrap();
        let files = [file];
        let exported = read_all(&files, &options);
        match native(core::SampleReader::open(&files, options.native())) {
            Err(native) => prop_assert_eq!(exported.unwrap_err(), native),
            Ok(mut reader) => {
                let samples: Vec<_> = reader.by_ref().map(|sample| native(sample).map(|sample| json(&sample))).collect();
                prop_assert_eq!(exported.unwrap(), (samples, json(reader.report())));
            }
        }
    }

    #[test]
    fn tokenizer_calls(input in text(), content in text(), header in any::<bool>(), ids in prop::collection::vec(-1_i64..40, 0..8)) {
        let (own, handle) = tokenizers();
        let messages = vec![core::Message::new("user", input.as_str()), core::Message::new("assistant", content)];
        let mut encoded = std::ptr::null_mut();
        // SAFETY: all pointers are valid; every result is freed once.
        unsafe {
            let raw = handle.raw();
            let (mut info, mut rendered, mut decoded) = (table::no_bytes(), table::no_bytes(), table::no_bytes());
            checked(|e| (api().tokenizer_info)(raw, &mut info, e)).unwrap();
            prop_assert_eq!(table::take_text(info).unwrap(), json(own.info()));
            let listed = json(&messages);
            let call = checked(|e| (api().tokenizer_render)(raw, table::text(&listed), header.into(), &mut rendered, e));
            prop_assert_eq!(call.map(|()| table::take_text(rendered).unwrap()), native(own.render(&messages, header)));
            checked(|e| (api().tokenizer_encode)(raw, table::text(&input), &mut encoded, e)).unwrap();
            let encoded = abi::tensor::import(encoded).unwrap();
            prop_assert_eq!(Vec::<i64>::try_from(&encoded).unwrap(), own.encode(&input).unwrap());
            let lent = abi::tensor::export(&Tensor::from_slice(&ids)).unwrap();
            let call = checked(|e| (api().tokenizer_decode)(raw, lent.as_raw(), header.into(), &mut decoded, e));
            prop_assert_eq!(call.map(|()| table::take_text(decoded).unwrap()), native(own.decode(&ids, header)));
        }
    }

    /// Two texts in one stream; some ids are negative or beyond the vocabulary.
    #[test]
    fn decode_streams(texts in prop::array::uniform2(prop::collection::vec(-1_i64..40, 0..12)), skip in any::<bool>()) {
        let (own, handle) = tokenizers();
        let own = Arc::new(own);
        let exported = table::decode_stream(&handle, skip.into()).unwrap();
        let mut stream = core::DecodeStream::new(Arc::clone(&own), skip);
        let piece = |text: String| (!text.is_empty()).then_some(text);
        for ids in texts {
            let mut joined = String::new();
            for &id in &ids {
                let text = table::decode_step(&exported, id);
                joined.extend(text.iter().flatten().map(String::as_str));
                prop_assert_eq!(text, native(stream.step(id)).map(piece));
            }
            let rest = table::decode_finish(&exported);
            joined.extend(rest.iter().flatten().map(String::as_str));
            prop_assert_eq!(rest, native(stream.finish()).map(piece));
            let valid: Vec<i64> = ids.into_iter().filter(|id| *id >= 0).collect();
            prop_assert_eq!(joined, own.decode(&valid, skip).unwrap());
        }
    }

    #[test]
    fn tokenize_and_collate(
        records in prop::collection::vec(usable(), 1..4),
        cutoff_len in select(vec![None, Some(12), Some(3)]),
        max_tokens in select(vec![None, Some(40)]),
        (layout, code) in select(LAYOUTS.to_vec()),
        pad in select(vec![0_u64, 1, 4]),
        stored in any::<bool>(),
        lambda in prop::collection::vec(prop_oneof![20 => 0.0..1.0_f64, 1 => Just(-1.0), 1 => Just(f64::NAN)], 9),
    ) {
        let (own, handle) = tokenizers();
        let mut options = table::tokenize_options();
        options.cutoff_len = cutoff_len.unwrap_or(0) as u64;
        let native_options = core::TokenizeOptions { cutoff_len, keep_all: false };
        let (mut samples, mut handles) = (Vec::new(), Vec::new());
        for (i, record) in records.iter().enumerate() {
            let convert = core::ConvertOptions::new(core::Format::UltraFeedback);
            let sample = core::convert::convert_record(&record.to_string(), i as u64, &convert).unwrap().unwrap();
            let tokenized = own.tokenize(&sample, &native_options).unwrap().samples;
            let exported = table::tokenize(&handle, &json(&sample), &options).unwrap();
            prop_assert_eq!(exported.is_none(), tokenized.is_empty());
            samples.extend(tokenized);
            // Storing the tokens as JSON in between changes nothing.
            let read_back = |sample| table::tokenized(&table::tokens(&sample).unwrap()).unwrap();
            handles.extend(if stored { exported.map(read_back) } else { exported });
        }
        let lambda = &lambda[..3 * samples.len()];
        let mut collate = table::collate_options(code);
        (collate.max_tokens, collate.pad_to_multiple_of, collate.pad_token_id) = (max_tokens.unwrap_or(0) as u64, pad, 1);
        let native_options = core::CollateOptions {
            layout,
            max_tokens,
            pad_to_multiple_of: if pad == 0 { 8 } else { pad as usize },
            pad_token_id: 1,
        };
        let exported = table::collate(&handles, lambda, &collate);
        let batch = core::collate(&samples.iter().collect::<Vec<_>>(), lambda, &native_options);
        match (native(batch), exported) {
            (Ok(native), Ok(exported)) => same_batch(&native, &exported),
            (native, exported) => prop_assert_eq!(exported.unwrap_err(), native.unwrap_err()),
        }
    }
}
