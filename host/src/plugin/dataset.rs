//! Stages 1 to 4 behind one handle: record files → batches.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::load::{answer, call, handle, lend_str, lend_strs, no_bytes, parse, path_strings, take};
use super::{CacheUse, CollateOptions, DatasetOptions, Plugin, PluginError, Report, Tokenizer};

pub use lambda_dpo_abi::PREFETCH_CAPACITY;

/// What a sampler needs to know of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// Position of its record in the concatenated inputs.
    pub record_index: u64,
    /// N.
    pub num_responses: usize,
    /// Tokens of the prompt and all responses.
    pub num_tokens: usize,
    /// Of its tokens and their targets: all that log-probs are a function of besides the model.
    pub content_hash: u128,
}

handle!(
    /// Tokenised records, ready to be batched.
    Dataset, abi::Dataset, dataset_free, info: DatasetInfo, samples: Vec<SampleInfo>
);

// SAFETY: the table allows any number of threads at once on a dataset.
unsafe impl Send for Dataset {}
// SAFETY: as above.
unsafe impl Sync for Dataset {}

impl Plugin {
    /// Reads, converts and tokenises record files, or takes what an earlier opening left in the cache; `progress` hears of
    /// records done and, where known, their total.
    ///
    /// # Errors
    /// A record that does not parse, a tokenizer without a template, a full disk; [`PluginError::is_cancelled`] where
    /// `progress` broke off.
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
        let tokenize = options.tokenize.lend();
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
        // SAFETY: all arguments live through the call, which hears of progress on this thread alone.
        call(|error| unsafe { open(paths.as_ptr(), paths.len(), tokenizer, &options, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("dataset_open", "no dataset"))?;
        let empty = Dataset { plugin: self.clone(), handle, info: DatasetInfo::default(), samples: Vec::new() };
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

/// What the plugin says of a dataset as a whole.
#[derive(Debug, Default, Deserialize)]
struct DatasetInfo {
    dimensions: Vec<String>,
    report: Report,
    hash: String,
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
    /// Fills in what the plugin says of the dataset.
    fn described(mut self) -> Result<Self, PluginError> {
        let mut info = no_bytes();
        // SAFETY: the handle is alive.
        call(|error| unsafe { (self.plugin.api().dataset_info)(self.handle.as_ptr(), &mut info, error) })?;
        self.info = parse(&self.plugin, info, "dataset_info")?;
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
        &self.info.dimensions
    }

    /// What was read and what was left out.
    pub fn report(&self) -> &Report {
        &self.info.report
    }

    /// Tells other samples, or other targets of theirs, from the same.
    pub fn hash(&self) -> &str {
        &self.info.hash
    }

    /// What came from the cache; None where there is none.
    pub fn cache(&self) -> Option<&CacheUse> {
        self.info.cache.as_ref()
    }

    /// Where the tokens came from, where that is worth a word.
    pub fn describe_cache(&self) -> Option<String> {
        let cache = self.cache()?;
        let damage =
            cache.damage.as_ref().map(|problem| format!("{} made anew, since {problem}", cache.path.display()));
        if cache.was_read { Some("tokens from the cache".to_owned()) } else { damage }
    }

    /// The samples, in order.
    pub fn samples(&self) -> &[SampleInfo] {
        &self.samples
    }

    /// Collates the samples at `indices`, with `lambda` `[B, M]` in rows, or takes what [`prefetch`](Self::prefetch) has
    /// made of them.
    ///
    /// # Errors
    /// An index out of range, a λ that is negative or not finite, or of a wrong length.
    pub fn batch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<Batch, PluginError> {
        let indices = self.request(indices, lambda)?;
        let options = options.lend();
        Batch::fill(|batch, error| {
            let make = self.plugin.api().dataset_batch;
            let handle = self.handle.as_ptr();
            // SAFETY: the handle is alive and all arguments live through the call.
            unsafe { make(handle, indices.as_ptr(), indices.len(), lambda.as_ptr(), &options, batch, error) }
        })
    }

    /// Has a batch collated on the dataset's own thread, for a [`batch`](Self::batch) of the same arguments soon; at most
    /// [`PREFETCH_CAPACITY`] of them at a time.
    ///
    /// # Errors
    /// A λ of a wrong length; anything else is told by [`batch`](Self::batch).
    pub fn prefetch(&self, indices: &[usize], lambda: &[f64], options: &CollateOptions) -> Result<(), PluginError> {
        let indices = self.request(indices, lambda)?;
        let options = options.lend();
        let ask = self.plugin.api().dataset_prefetch;
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is alive and all arguments live through the call, which copies them.
        call(|error| unsafe { ask(handle, indices.as_ptr(), indices.len(), lambda.as_ptr(), &options, error) })
    }

    /// The indices as the table takes them; the table reads M weights for each.
    fn request(&self, indices: &[usize], lambda: &[f64]) -> Result<Vec<u64>, PluginError> {
        let expected = indices.len() * self.dimensions().len();
        if lambda.len() != expected {
            let message = format!("λ holds {} values, the batch needs {expected}", lambda.len());
            return Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message });
        }
        Ok(indices.iter().map(|index| *index as u64).collect())
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
