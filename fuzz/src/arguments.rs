//! Arguments of calls of the table: descriptions of any value, and the structs of the ABI that they stand for.
//!
//! The order and types of a description's fields say which bytes of an input become which value: after a change, the
//! corpus consists of other calls.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use arbitrary::Arbitrary;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator};
use arrow_json::ReaderBuilder;
use arrow_json::reader::infer_json_schema;
use lambda_dpo_abi as abi;

use crate::files::FILES;
use crate::handles::Choice;

/// Lends text of any bytes to a call.
#[must_use]
pub fn text(bytes: &[u8]) -> abi::Str {
    abi::Str { data: bytes.as_ptr(), len: bytes.len() }
}

/// Lends up to three paths to a call: mostly those that `file` chooses, else one as an input has it.
#[must_use]
pub fn paths<'a>(choices: &[Choice], file: impl Fn(Choice) -> &'a str, other: &'a str) -> Vec<abi::Str> {
    let choose = |choice: &Choice| if *choice < 240 { file(*choice) } else { other };
    choices.iter().take(3).map(|choice| text(choose(choice).as_bytes())).collect()
}

/// Makes an Arrow stream of records; None if the text is none.
#[must_use]
pub fn stream_of(records: &str) -> Option<FFI_ArrowArrayStream> {
    let (schema, _) = infer_json_schema(records.as_bytes(), None).ok()?;
    let reader = ReaderBuilder::new(schema.into()).with_batch_size(2).build(records.as_bytes()).ok()?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().ok()?;
    let schema = batches.first()?.schema();
    Some(FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches.into_iter().map(Ok), schema))))
}

/// How records become samples.
#[derive(Arbitrary, Debug)]
pub struct Convert<'a> {
    format: Choice,
    best_worst_pairs: Choice,
    dimensions: Option<Vec<&'a str>>,
    excluded: Option<Vec<&'a [u8]>>,
    missing_rating: f64,
    temperature: f64,
    max_samples: u8,
    keep_all: Choice,
    struct_size: Option<u8>,
}

/// The options of a conversion, with the arrays they point to.
pub struct ConvertOptions {
    _dimensions: Option<Vec<abi::Str>>,
    _excluded: Option<Vec<abi::Str>>,
    raw: abi::ConvertOptions,
}

impl ConvertOptions {
    /// Makes the options, which borrow the texts of their description.
    #[must_use]
    pub fn new(convert: &Convert) -> Self {
        let dimensions: Option<Vec<abi::Str>> =
            convert.dimensions.as_ref().map(|names| names.iter().map(|name| text(name.as_bytes())).collect());
        let excluded: Option<Vec<abi::Str>> =
            convert.excluded.as_ref().map(|names| names.iter().map(|name| text(name)).collect());
        let whole = size_of::<abi::ConvertOptions>();
        let raw = abi::ConvertOptions {
            struct_size: convert.struct_size.map_or(whole, usize::from).min(whole),
            format: u32::from(convert.format % 6),
            best_worst_pairs: u32::from(convert.best_worst_pairs % 3),
            dimensions: dimensions.as_ref().map_or(null(), Vec::as_ptr),
            num_dimensions: dimensions.as_ref().map_or(0, Vec::len),
            missing_rating: convert.missing_rating,
            temperature: convert.temperature,
            max_samples: convert.max_samples.into(),
            exclude_sources: excluded.as_ref().map_or(null(), Vec::as_ptr),
            num_exclude_sources: excluded.as_ref().map_or(0, Vec::len),
            keep_all: u32::from(convert.keep_all % 3),
            reserved: u32::from(convert.keep_all == 255),
        };
        Self { _dimensions: dimensions, _excluded: excluded, raw }
    }

    /// The options, for a call while this and its description are alive.
    #[must_use]
    pub fn raw(&self) -> &abi::ConvertOptions {
        &self.raw
    }
}

/// Makes the options that turn a sample into tokens.
#[must_use]
pub fn tokenize_options(cutoff_len: u8, keep_all: Choice) -> abi::TokenizeOptions {
    abi::TokenizeOptions {
        struct_size: size_of::<abi::TokenizeOptions>(),
        cutoff_len: cutoff_len.into(),
        keep_all: u32::from(keep_all % 3),
        reserved: 0,
    }
}

/// How samples become a batch, with their λ.
#[derive(Arbitrary, Debug)]
pub struct Collate {
    lambda: [f64; 32],
    layout: Choice,
    max_tokens: u16,
    pad_to_multiple_of: u8,
}

impl Collate {
    /// The options of the batch.
    #[must_use]
    pub fn options(&self) -> abi::CollateOptions {
        abi::CollateOptions {
            struct_size: size_of::<abi::CollateOptions>(),
            layout: u32::from(self.layout % 4),
            max_tokens: self.max_tokens.into(),
            pad_to_multiple_of: self.pad_to_multiple_of.into(),
            pad_token_id: 0,
        }
    }

    /// The λ of all samples, one after the other.
    #[must_use]
    pub fn lambda(&self) -> &[f64] {
        &self.lambda
    }

    /// Whether λ has room for the dimensions of all samples.
    #[must_use]
    pub fn has_room(&self, num_samples: usize, num_dimensions: usize) -> bool {
        num_samples.saturating_mul(num_dimensions) <= self.lambda.len()
    }
}

/// How files or a stream become a dataset.
#[derive(Arbitrary, Debug)]
pub struct Dataset<'a> {
    /// Chooses the tokenizer's handle.
    pub tokenizer: Choice,
    convert: Convert<'a>,
    cutoff_len: u8,
    keep_all: Choice,
    /// 0 to 99: no callback; then one that goes on, and one that stops.
    progress: Choice,
    has_cache: bool,
}

impl Dataset<'_> {
    /// Makes a call with the dataset's options, which are valid until it returns.
    pub fn with_options<R>(&self, call: impl FnOnce(&abi::DatasetOptions) -> R) -> R {
        let convert = ConvertOptions::new(&self.convert);
        let tokenize = tokenize_options(self.cutoff_len, self.keep_all);
        let progress: abi::Progress = match self.progress {
            0..100 => None,
            100..200 => Some(go_on),
            _ => Some(stop),
        };
        call(&abi::DatasetOptions {
            struct_size: size_of::<abi::DatasetOptions>(),
            convert: convert.raw(),
            tokenize: &tokenize,
            progress,
            progress_user: null_mut(),
            cache_dir: text(if self.has_cache { FILES.cache().as_bytes() } else { b"" }),
        })
    }
}

unsafe extern "C" fn go_on(_: *mut c_void, _: u64, _: u64) -> i32 {
    0
}

unsafe extern "C" fn stop(_: *mut c_void, _: u64, _: u64) -> i32 {
    1
}

/// How λ is drawn.
#[derive(Arbitrary, Debug)]
pub struct Schedule {
    kind: Choice,
    dimension: u8,
    num_dimensions: u8,
    alpha: f64,
    weights: Vec<f64>,
}

impl Schedule {
    /// The options, for a call while this is alive; None if there is not a weight for each dimension.
    #[must_use]
    pub fn options(&self) -> Option<abi::ScheduleOptions> {
        let num_dimensions = usize::from(self.num_dimensions % 8);
        (self.weights.len() >= num_dimensions).then(|| abi::ScheduleOptions {
            struct_size: size_of::<abi::ScheduleOptions>(),
            kind: u32::from(self.kind % 10),
            dimension: self.dimension.into(),
            num_dimensions,
            alpha: self.alpha,
            weights: self.weights.as_ptr(),
            num_rows: self.weights.len() / num_dimensions.max(1),
            probabilities: self.weights.as_ptr(),
        })
    }
}
