//! Stages 1 to 4 behind one handle: from record files to batches.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::call::{answer, call, handle, lend_str, lend_strs, no_bytes, outputs, parse, path_strings, take, zeroed};
use super::error::PluginError;
use super::load::Plugin;
use super::options::{CacheUse, CollateOptions, DatasetOptions};
use super::report::Report;
use super::tokenizer::Tokenizer;

pub use lambda_dpo_abi::PREFETCH_CAPACITY;

/// A sample as a sampler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// Index of its record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Tokens of the prompt and all responses.
    pub num_tokens: usize,
    /// Hash of its tokens and targets, on which its log-probs depend besides the model.
    pub content_hash: u128,
}

handle!(
    /// Tokenised records, ready to be batched.
    Dataset, abi::Dataset, dataset_free, info: DatasetInfo, samples: Vec<SampleInfo>
);

// SAFETY: the ABI allows any number of threads to use a dataset at once.
unsafe impl Send for Dataset {}
// SAFETY: as above.
unsafe impl Sync for Dataset {}

impl Plugin {
    /// Reads, converts and tokenises record files, or takes the result of an earlier opening from the cache; `progress` is
    /// called with the number of records done and their total, 0 if that is not known.
    ///
    /// # Errors
    ///
    /// Returns an error if a record does not parse, the tokenizer has no template or the disk is full, and one that
    /// [`is_cancelled`](PluginError::is_cancelled) if `progress` breaks off.
    pub fn dataset(
        &self,
        paths: &[PathBuf],
        tokenizer: &Tokenizer,
        options: &DatasetOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Dataset, PluginError> {
        let paths = path_strings(paths)?;
        let paths = lend_strs(&paths);
        let cache_dir = path_strings(options.cache_dir.as_slice())?;
        let convert = options.convert.lend();
        let tokenize = options.tokenize.to_abi();
        let mut progress = progress;
        let options = abi::DatasetOptions {
            struct_size: size_of::<abi::DatasetOptions>(),
            convert: &raw const convert.raw,
            tokenize: &raw const tokenize,
            progress: Some(forward_progress),
            progress_user: (&raw mut progress).cast(),
            cache_dir: lend_str(cache_dir.first().map_or("", String::as_str)),
        };
        let mut handle = std::ptr::null_mut();
        let open = self.api().dataset_open;
        let tokenizer = tokenizer.as_ptr();
        // SAFETY: all arguments live through the call, which calls `progress` on this thread only.
        call(|error| unsafe { open(paths.as_ptr(), paths.len(), tokenizer, &options, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("dataset_open", "no dataset"))?;
        let empty = Dataset { plugin: self.clone(), handle, info: DatasetInfo::default(), samples: Vec::new() };
        empty.described()
    }
}

/// Calls the callback from C, through which a panic must not unwind.
unsafe extern "C" fn forward_progress(user: *mut c_void, done: u64, total: u64) -> i32 {
    let answer = std::panic::catch_unwind(|| {
        // SAFETY: `user` is the callback that `dataset` lent for the call.
        let progress = unsafe { &mut *user.cast::<&mut dyn FnMut(u64, u64) -> ControlFlow<()>>() };
        progress(done, total)
    });
    i32::from(!matches!(answer, Ok(ControlFlow::Continue(()))))
}

/// The answer of `dataset_info`.
#[derive(Debug, Default, Deserialize)]
struct DatasetInfo {
    dimensions: Vec<String>,
    report: Report,
    hash: String,
    longest_sequence: usize,
    cache: Option<CacheUse>,
}

/// Columns of `dataset_samples`.
const SAMPLE_COLUMNS: usize = 5;

impl SampleInfo {
    fn from_row(row: &[i64; SAMPLE_COLUMNS]) -> Self {
        let [record_index, num_responses, num_tokens, low, high] = *row;
        Self {
            record_index: record_index.unsigned_abs(),
            num_responses: usize::try_from(num_responses).unwrap_or(0),
            num_tokens: usize::try_from(num_tokens).unwrap_or(0),
            content_hash: u128::from(low as u64) | u128::from(high as u64) << 64,
        }
    }
}

impl Dataset {
    /// Asks the plugin for the dataset's info and samples.
    fn described(mut self) -> Result<Self, PluginError> {
        let mut info = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().dataset_info)(self.handle.as_ptr(), &mut info, error) })?;
        self.info = parse(self.plugin.api(), info, "dataset_info")?;
        let mut samples = std::ptr::null_mut();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().dataset_samples)(self.handle.as_ptr(), &mut samples, error) })?;
        let samples = take(samples, "dataset_samples")?;
        if samples.kind() != Kind::Int64 || samples.dim() != 2 || samples.size()[1] != SAMPLE_COLUMNS as i64 {
            return Err(answer("dataset_samples", format!("a tensor {:?} {:?}", samples.kind(), samples.size())));
        }
        let numbers: Vec<i64> =
            Vec::try_from(samples.reshape([-1])).map_err(|error| answer("dataset_samples", error))?;
        self.samples = numbers.as_chunks().0.iter().map(SampleInfo::from_row).collect();
        Ok(self)
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Returns true if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Returns the names of the M dimensions.
    pub fn dimensions(&self) -> &[String] {
        &self.info.dimensions
    }

    /// Returns counts of the records that were read and left out.
    pub fn report(&self) -> &Report {
        &self.info.report
    }

    /// Returns a hash of the samples and their targets.
    pub fn hash(&self) -> &str {
        &self.info.hash
    }

    /// Returns the number of tokens of the longest prompt with one of its responses.
    pub fn longest_sequence(&self) -> usize {
        self.info.longest_sequence
    }

    /// Returns how the cache was used; None without a cache.
    pub fn cache(&self) -> Option<&CacheUse> {
        self.info.cache.as_ref()
    }

    /// Describes the use of the cache, if it was read or damaged.
    pub fn describe_cache(&self) -> Option<String> {
        let cache = self.cache()?;
        let damage = cache
            .damage
            .as_ref()
            .map(|problem| format!("{} is written again, because {problem}", cache.path.display()));
        if cache.was_read { Some("tokens from the cache".to_owned()) } else { damage }
    }

    /// Returns the samples, in order.
    pub fn samples(&self) -> &[SampleInfo] {
        &self.samples
    }

    /// Collates the samples at `indices` with `lambda` `[B, M]`, row-major, or takes the batch that
    /// [`prefetch`](Self::prefetch) has collated.
    ///
    /// # Errors
    ///
    /// Returns an error if an index is out of range, or if `lambda` is negative, not finite or of the wrong length.
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch, PluginError> {
        let indices = self.request(indices, lambda)?;
        let options = options.to_abi();
        let mut batch = zeroed!(abi::Batch);
        let make = self.plugin.api().dataset_batch;
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is alive and all arguments live through the call.
        call(|error| unsafe {
            make(handle, indices.as_ptr(), indices.len(), lambda.as_ptr(), &options, &mut batch, error)
        })?;
        Batch::take(&batch)
    }

    /// Starts to collate a batch on the dataset's own thread, for a later [`batch`](Self::batch) with the same arguments;
    /// at most [`PREFETCH_CAPACITY`] at a time.
    ///
    /// # Errors
    ///
    /// Returns an error if `lambda` has the wrong length; other errors are reported by [`batch`](Self::batch).
    pub fn prefetch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<(), PluginError> {
        let indices = self.request(indices, lambda)?;
        let options = options.to_abi();
        let ask = self.plugin.api().dataset_prefetch;
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is alive and all arguments live through the call, which copies them.
        call(|error| unsafe { ask(handle, indices.as_ptr(), indices.len(), lambda.as_ptr(), &options, error) })
    }

    /// Converts the indices, and checks the length of `lambda`, of which the plugin reads M weights for each index.
    fn request(&self, indices: &[usize], lambda: &[f64]) -> Result<Vec<u64>, PluginError> {
        let expected = indices.len() * self.dimensions().len();
        if lambda.len() != expected {
            let message = format!("λ has {} values, but the batch needs {expected}", lambda.len());
            return Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message });
        }
        Ok(indices.iter().map(|index| *index as u64).collect())
    }
}

outputs! {
    /// Tensors on the CPU; fields, shapes and dtypes as in the ABI's `Batch`.
    Batch, abi::Batch, "dataset_batch" {
        /// `[R, T]`
        input_ids: Tensor,
        /// `[R, T]`
        attention_mask: Tensor,
        /// `[R, T]`
        position_ids: Tensor,
        /// `[R, T]`
        labels: Tensor,
        /// `[R, T]`
        prompt_ids: Tensor,
        /// `[R, T]`
        sequence_ids: Tensor,
        /// `[K]`
        target_positions: Tensor,
        /// `[K]`
        target_ids: Tensor,
        /// `[K]`
        target_sequences: Tensor,
        /// `[S]`
        sequence_num_tokens: Tensor,
        /// `[S]`
        sequence_prompts: Tensor,
        /// `[S]`
        sequence_responses: Tensor,
        /// `[B + 1]`
        prompt_offsets: Tensor,
        /// `[M, C]`
        sequence_index: Tensor,
        /// `[M, C]` float32
        pi_target: Tensor,
        /// `[M, C]` bool
        target_mask: Tensor,
        /// `[M, C]`
        ranks: Tensor,
        /// `[B, M]` float32
        lambda: Tensor,
        /// `[B]`
        record_indices: Tensor,
        /// Prompts with a dimension of positive weight.
        num_contributing: u64,
    }
}
