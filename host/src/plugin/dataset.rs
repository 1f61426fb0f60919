//! Stages 1 to 4 behind one handle: record files → batches.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::load::{answer, call, handle, lend_strs, no_bytes, parse, path_strings, take};
use super::{CollateOptions, ConvertOptions, Layout, Plugin, PluginError, Report, TokenizeOptions, Tokenizer};

/// What a sampler needs to know of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// Position of its record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Tokens of the prompt and all responses.
    pub num_tokens: usize,
}

handle!(
    /// Tokenised records, ready to be batched.
    Dataset, abi::Dataset, dataset_free, dimensions: Vec<String>, report: Report, samples: Vec<SampleInfo>
);

// SAFETY: the table allows any number of threads at once on a dataset.
unsafe impl Send for Dataset {}
// SAFETY: as above.
unsafe impl Sync for Dataset {}

impl Plugin {
    /// Reads, converts and tokenises record files; `progress` hears of records done and, where known, their total.
    ///
    /// # Errors
    /// A record that does not parse, a tokenizer without a template; [`PluginError::is_cancelled`] where `progress`
    /// broke off.
    pub fn dataset(
        &self,
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        convert: &ConvertOptions,
        tokenize: &TokenizeOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Dataset, PluginError> {
        let paths = path_strings(paths)?;
        let paths = lend_strs(&paths);
        let convert = convert.lend();
        let tokenize = abi::TokenizeOptions {
            struct_size: size_of::<abi::TokenizeOptions>(),
            cutoff_len: tokenize.cutoff_len.unwrap_or(0) as u64,
            keep_all: u32::from(tokenize.keep_all),
            reserved: 0,
        };
        let mut progress = progress;
        let options = abi::DatasetOptions {
            struct_size: size_of::<abi::DatasetOptions>(),
            convert: &raw const convert.raw,
            tokenize: &raw const tokenize,
            progress: Some(forward_progress),
            progress_user: (&raw mut progress).cast(),
        };
        let mut handle = std::ptr::null_mut();
        let open = self.api().dataset_open;
        let tokenizer = tokenizer.as_ptr();
        // SAFETY: all arguments live through the call, which hears of progress on this thread alone.
        call(|error| unsafe { open(paths.as_ptr(), paths.len(), tokenizer, &options, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("dataset_open", "no dataset"))?;
        let empty = Dataset {
            plugin: self.clone(),
            handle,
            dimensions: Vec::new(),
            report: Report::default(),
            samples: Vec::new(),
        };
        empty.described()
    }
}

/// Carries the callback across the boundary; a panic in it must not unwind through C.
unsafe extern "C" fn forward_progress(user: *mut c_void, done: u64, total: u64) -> i32 {
    let told = std::panic::catch_unwind(|| {
        // SAFETY: `user` is the callback that `dataset` lent for the call.
        let progress = unsafe { &mut *user.cast::<&mut dyn FnMut(u64, u64) -> ControlFlow<()>>() };
        progress(done, total)
    });
    i32::from(!matches!(told, Ok(ControlFlow::Continue(()))))
}

#[derive(Deserialize)]
struct DatasetInfo {
    dimensions: Vec<String>,
    report: Report,
}

impl Dataset {
    /// Fills in what the plugin says of the dataset.
    fn described(mut self) -> Result<Self, PluginError> {
        let mut info = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().dataset_info)(self.handle.as_ptr(), &mut info, error) })?;
        let info: DatasetInfo = parse(&self.plugin, info, "dataset_info")?;
        let mut samples = std::ptr::null_mut();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().dataset_samples)(self.handle.as_ptr(), &mut samples, error) })?;
        let samples = take(samples, "dataset_samples")?;
        if samples.kind() != Kind::Int64 || samples.dim() != 2 || samples.size()[1] != 3 {
            return Err(answer("dataset_samples", format!("a tensor {:?} {:?}", samples.kind(), samples.size())));
        }
        let rows: Vec<i64> = Vec::try_from(samples.reshape([-1])).map_err(|error| answer("dataset_samples", error))?;
        self.samples = rows
            .chunks_exact(3)
            .map(|row| SampleInfo {
                record_index: row[0].unsigned_abs(),
                num_responses: usize::try_from(row[1]).unwrap_or(0),
                num_tokens: usize::try_from(row[2]).unwrap_or(0),
            })
            .collect();
        (self.dimensions, self.report) = (info.dimensions, info.report);
        Ok(self)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// True where no record is left.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Names of the M dimensions.
    pub fn dimensions(&self) -> &[String] {
        &self.dimensions
    }

    /// What was read and what was left out.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The samples, in order.
    pub fn samples(&self) -> &[SampleInfo] {
        &self.samples
    }

    /// Collates the samples at `indices`, with `lambda` `[B, M]` in rows.
    ///
    /// # Errors
    /// An index out of range, a λ that is negative or not finite, or of a wrong length.
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch, PluginError> {
        let expected = indices.len() * self.dimensions.len();
        if lambda.len() != expected {
            let message = format!("λ holds {} values, the batch needs {expected}", lambda.len());
            return Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message });
        }
        let indices: Vec<u64> = indices.iter().map(|index| *index as u64).collect();
        let options = abi::CollateOptions {
            struct_size: size_of::<abi::CollateOptions>(),
            layout: match options.layout {
                Layout::Expanded => abi::LAYOUT_EXPANDED,
                Layout::Rows => abi::LAYOUT_ROWS,
                Layout::Packed => abi::LAYOUT_PACKED,
            },
            max_tokens: options.max_tokens.unwrap_or(0) as u64,
            pad_to_multiple_of: 0,
            pad_token_id: options.pad_token_id,
        };
        Batch::fill(|batch, error| {
            let make = self.plugin.api().dataset_batch;
            let handle = self.handle.as_ptr();
            // SAFETY: the handle is alive and all arguments live through the call.
            unsafe { make(handle, indices.as_ptr(), indices.len(), lambda.as_ptr(), &options, batch, error) }
        })
    }
}

/// Declares [`Batch`] and its conversion in one place.
macro_rules! batch {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// Tensors on the CPU; fields, shapes and dtypes as in the ABI's `Batch`.
        #[derive(Debug)]
        pub struct Batch {
            $($(#[$doc])* pub $field: Tensor,)*
            /// Prompts with a dimension of positive weight.
            pub num_contributing: u64,
        }

        impl Batch {
            fn fill(
                make: impl FnOnce(*mut abi::Batch, *mut abi::Error) -> abi::Status,
            ) -> Result<Self, PluginError> {
                let mut raw = abi::Batch {
                    struct_size: size_of::<abi::Batch>(),
                    $($field: std::ptr::null_mut(),)*
                    num_contributing: 0,
                };
                call(|error| make(&mut raw, error))?;
                Ok(Self {
                    $($field: take(raw.$field, "dataset_batch")?,)*
                    num_contributing: raw.num_contributing,
                })
            }
        }
    };
}

batch!(
    /// `[R, T]`
    input_ids,
    /// `[R, T]`
    attention_mask,
    /// `[R, T]`
    position_ids,
    /// `[R, T]`
    labels,
    /// `[R, T]`
    prompt_ids,
    /// `[R, T]`
    sequence_ids,
    /// `[K]`
    target_positions,
    /// `[K]`
    target_ids,
    /// `[K]`
    target_sequences,
    /// `[S]`
    sequence_num_tokens,
    /// `[S]`
    sequence_prompts,
    /// `[S]`
    sequence_responses,
    /// `[B + 1]`
    prompt_offsets,
    /// `[M, C]`
    sequence_index,
    /// `[M, C]` float32
    pi_target,
    /// `[M, C]` bool
    target_mask,
    /// `[B, M]` float32
    lambda,
    /// `[B]`
    record_indices,
);
