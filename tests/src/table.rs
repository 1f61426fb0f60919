//! The function table as a foreign caller sees it: raw calls, whose results Rust frees.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor;
use libloading::Library;
use tch::{Device, Tensor};

use crate::plugin_library;

/// Status and message of a failed call.
pub type Failure = (abi::Status, String);

/// Loads the library's only exported symbol.
pub fn entry_point() -> abi::GetApi {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    // SAFETY: our own library; its initialisers are libstdc++'s and Rust's.
    let library = LIBRARY.get_or_init(|| unsafe { Library::new(plugin_library()) }.unwrap());
    // SAFETY: the symbol has this type.
    unsafe { *library.get::<abi::GetApi>(abi::ENTRY_POINT.as_bytes()).unwrap() }
}

/// Asks the library for a table.
///
/// # Errors
/// Returns the failure if the library does not serve the version.
pub fn get_api(major: u32, minor: u32) -> Result<&'static abi::Api, Failure> {
    let (entry, mut api) = (entry_point(), null());
    // SAFETY: both pointers are valid.
    checked(|error| unsafe { entry(major, minor, &mut api, error) })?;
    // SAFETY: the table is static.
    Ok(unsafe { &*api })
}

/// The table of the current revision.
pub fn api() -> &'static abi::Api {
    get_api(abi::ABI_MAJOR, abi::ABI_MINOR).unwrap()
}

/// Makes a call and checks its status.
///
/// # Errors
/// Returns status and message if the status is not OK.
pub fn checked(call: impl FnOnce(*mut abi::Error) -> abi::Status) -> Result<(), Failure> {
    let mut buffer = [0_u8; 4096];
    let mut error = abi::Error {
        struct_size: size_of::<abi::Error>(),
        buffer: buffer.as_mut_ptr(),
        capacity: buffer.len(),
        len: 0,
    };
    match call(&mut error) {
        abi::STATUS_OK => Ok(()),
        status => {
            let message = &buffer[..error.len.min(buffer.len())];
            Err((status, std::str::from_utf8(message).unwrap().to_owned()))
        }
    }
}

/// Borrows text for a call.
pub fn text(text: &str) -> abi::Str {
    abi::Str { data: text.as_ptr(), len: text.len() }
}

/// Empty bytes for a call to fill.
pub fn no_bytes() -> abi::Bytes {
    abi::Bytes { data: null_mut(), len: 0, capacity: 0 }
}

/// Copies the text that a call returned and frees it; None for NULL.
pub fn take_text(mut bytes: abi::Bytes) -> Option<String> {
    if bytes.data.is_null() {
        return None;
    }
    // SAFETY: allocated by the plugin, read, then freed once.
    unsafe {
        let text = std::str::from_utf8(std::slice::from_raw_parts(bytes.data, bytes.len)).unwrap().to_owned();
        (api().bytes_free)(&mut bytes);
        Some(text)
    }
}

/// Default options: every dimension, missing ratings masked, no record left out.
pub fn convert_options(format: u32) -> abi::ConvertOptions {
    abi::ConvertOptions {
        struct_size: size_of::<abi::ConvertOptions>(),
        format,
        best_worst_pairs: 0,
        dimensions: null(),
        num_dimensions: 0,
        missing_rating: f64::NAN,
        temperature: 1.0,
        max_samples: 0,
        exclude_sources: null(),
        num_exclude_sources: 0,
        keep_all: 0,
        reserved: 0,
    }
}

/// Options without a cutoff.
pub fn tokenize_options() -> abi::TokenizeOptions {
    abi::TokenizeOptions { struct_size: size_of::<abi::TokenizeOptions>(), cutoff_len: 0, keep_all: 0, reserved: 0 }
}

/// A prompt with two responses of log-probs −1 and −2 and target (1, 0): at β = 1 the loss is −log σ(1).
pub struct PairLoss {
    log_probs: tensor::Exported,
    offsets: tensor::Exported,
    pi_target: tensor::Exported,
    lambda: tensor::Exported,
}

impl PairLoss {
    /// Puts the log-probs on a device.
    pub fn new(device: Device) -> Self {
        let lend = |tensor: Tensor| tensor::export(&tensor).unwrap();
        Self {
            log_probs: lend(Tensor::from_slice(&[-1.0_f32, -2.0]).to_device(device)),
            offsets: lend(Tensor::from_slice(&[0_i64, 2])),
            pi_target: lend(Tensor::from_slice(&[1.0_f32, 0.0]).view([1, 2])),
            lambda: lend(Tensor::from_slice(&[1.0_f32]).view([1, 1])),
        }
    }

    /// The inputs of the loss, which borrow from `self`.
    pub fn inputs(&self) -> abi::LossInputs {
        abi::LossInputs {
            sequence_log_probs: self.log_probs.as_raw(),
            num_sequences: 2,
            prompt_offsets: self.offsets.as_raw(),
            pi_target: self.pi_target.as_raw(),
            lambda: self.lambda.as_raw(),
            // SAFETY: a struct of the table, for which zeros are valid.
            ..unsafe { sized() }
        }
    }

    /// Options with β = 1 that ask for the gradient of the log-probs.
    pub fn options() -> abi::LossOptions {
        // SAFETY: a struct of the table, for which zeros are valid.
        abi::LossOptions { beta: 1.0, wants: abi::WANTS_SEQUENCE_LOG_PROBS, ..unsafe { sized() } }
    }
}

/// Options for one prompt to a row, padded to a multiple of 8 with id 0.
pub fn collate_options(layout: u32) -> abi::CollateOptions {
    abi::CollateOptions {
        struct_size: size_of::<abi::CollateOptions>(),
        layout,
        max_tokens: 0,
        pad_to_multiple_of: 0,
        pad_token_id: 0,
    }
}

/// A struct with its `struct_size` set and every other field zero.
///
/// # Safety
/// `T` must be a struct of the ABI that starts with `struct_size` and for which zeros are valid.
pub unsafe fn sized<T>() -> T {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut value = std::mem::MaybeUninit::<T>::zeroed();
        value.as_mut_ptr().cast::<usize>().write(size_of::<T>());
        value.assume_init()
    }
}

/// The tensors of a loss's outputs; NULL for those it has not.
pub fn tensors_of(outputs: &abi::LossOutputs) -> [abi::Tensor; 11] {
    [
        outputs.loss,
        outputs.token_log_probs,
        outputs.sequence_log_probs,
        outputs.rewards,
        outputs.prompt_losses,
        outputs.dimension_losses,
        outputs.dimension_mask,
        outputs.accuracies,
        outputs.dimension_accuracies,
        outputs.margins,
        outputs.sft_losses,
    ]
}

/// Frees every tensor of a loss's outputs.
///
/// # Safety
/// The caller must own the tensors that are not NULL, and not use them again.
pub unsafe fn free_outputs(outputs: abi::LossOutputs) {
    for tensor in tensors_of(&outputs) {
        // SAFETY: guaranteed by the caller.
        unsafe { tensor::free_tensor(tensor) };
    }
}

/// An opaque handle, freed when dropped.
#[derive(Debug)]
pub struct Handle<T> {
    raw: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

// SAFETY: tests share only handles that the table allows several threads to use.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    /// Takes ownership of a handle.
    ///
    /// # Safety
    /// `raw` must be a live handle that `free` frees and nobody else owns.
    pub unsafe fn new(raw: *mut T, free: unsafe extern "C" fn(*mut T)) -> Self {
        Self { raw, free }
    }

    /// The handle, for a call.
    pub fn raw(&self) -> *mut T {
        self.raw
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: guaranteed by the caller of `new`.
        unsafe { (self.free)(self.raw) }
    }
}

/// `convert_record`.
///
/// # Errors
/// Returns the failure of the call.
pub fn convert_record(record: &str, index: u64, options: &abi::ConvertOptions) -> Result<Option<String>, Failure> {
    let mut bytes = no_bytes();
    // SAFETY: all pointers are valid.
    checked(|error| unsafe { (api().convert_record)(text(record), index, options, &mut bytes, error) })?;
    Ok(take_text(bytes))
}

/// `tokenizer_open`.
///
/// # Errors
/// Returns the failure of the call.
pub fn tokenizer_open(folder: &Path) -> Result<Handle<abi::Tokenizer>, Failure> {
    let mut raw = null_mut();
    let folder = folder.to_str().unwrap();
    // SAFETY: all pointers are valid; the handle is ours on success.
    unsafe {
        checked(|error| (api().tokenizer_open)(text(folder), text(""), &mut raw, error))?;
        Ok(Handle::new(raw, api().tokenizer_free))
    }
}

/// `decode_stream_new`.
///
/// # Errors
/// Returns the failure of the call.
pub fn decode_stream(
    tokenizer: &Handle<abi::Tokenizer>,
    skip_special_tokens: u32,
) -> Result<Handle<abi::DecodeStream>, Failure> {
    let mut raw = null_mut();
    // SAFETY: all pointers are valid; the handle is ours on success.
    unsafe {
        checked(|error| (api().decode_stream_new)(tokenizer.raw(), skip_special_tokens, &mut raw, error))?;
        Ok(Handle::new(raw, api().decode_stream_free))
    }
}

/// `decode_stream_step`; None if no text is complete.
///
/// # Errors
/// Returns the failure of the call.
pub fn decode_step(stream: &Handle<abi::DecodeStream>, id: i64) -> Result<Option<String>, Failure> {
    let mut bytes = no_bytes();
    // SAFETY: all pointers are valid.
    checked(|error| unsafe { (api().decode_stream_step)(stream.raw(), id, &mut bytes, error) })?;
    Ok(take_text(bytes))
}

/// `decode_stream_finish`; None if no text is left.
///
/// # Errors
/// Returns the failure of the call.
pub fn decode_finish(stream: &Handle<abi::DecodeStream>) -> Result<Option<String>, Failure> {
    let mut bytes = no_bytes();
    // SAFETY: all pointers are valid.
    checked(|error| unsafe { (api().decode_stream_finish)(stream.raw(), &mut bytes, error) })?;
    Ok(take_text(bytes))
}

/// `tokenize`; None if nothing is left of the sample.
///
/// # Errors
/// Returns the failure of the call.
pub fn tokenize(
    tokenizer: &Handle<abi::Tokenizer>,
    sample: &str,
    options: &abi::TokenizeOptions,
) -> Result<Option<Handle<abi::TokenizedSample>>, Failure> {
    let mut raw = null_mut();
    // SAFETY: all pointers are valid; the handle is ours on success.
    unsafe {
        checked(|error| (api().tokenize)(tokenizer.raw(), text(sample), options, &mut raw, error))?;
        Ok((!raw.is_null()).then(|| Handle::new(raw, api().tokenized_sample_free)))
    }
}

/// `tokenized_sample_tokens`.
///
/// # Errors
/// Returns the failure of the call.
pub fn tokens(sample: &Handle<abi::TokenizedSample>) -> Result<String, Failure> {
    let mut bytes = no_bytes();
    // SAFETY: all pointers are valid.
    checked(|error| unsafe { (api().tokenized_sample_tokens)(sample.raw(), &mut bytes, error) })?;
    Ok(take_text(bytes).unwrap())
}

/// `tokenized_sample_new`.
///
/// # Errors
/// Returns the failure of the call.
pub fn tokenized(tokens: &str) -> Result<Handle<abi::TokenizedSample>, Failure> {
    let mut raw = null_mut();
    // SAFETY: all pointers are valid; the handle is ours on success.
    unsafe {
        checked(|error| (api().tokenized_sample_new)(text(tokens), &mut raw, error))?;
        Ok(Handle::new(raw, api().tokenized_sample_free))
    }
}

/// The tensors of a batch by field name, and `num_contributing`.
pub type NamedBatch = (Vec<(&'static str, Tensor)>, u64);

/// Passes the names of a batch's tensors to a macro.
#[macro_export]
macro_rules! batch_fields {
    ($with:ident) => {
        $with!(
            input_ids,
            attention_mask,
            position_ids,
            labels,
            prompt_ids,
            sequence_ids,
            target_positions,
            target_ids,
            target_sequences,
            sequence_num_tokens,
            sequence_prompts,
            sequence_responses,
            prompt_offsets,
            sequence_index,
            pi_target,
            target_mask,
            ranks,
            lambda,
            record_indices
        )
    };
}

/// Makes a call that fills a batch.
///
/// # Errors
/// Returns the failure of the call.
pub fn batch(call: impl FnOnce(*mut abi::Batch, *mut abi::Error) -> abi::Status) -> Result<NamedBatch, Failure> {
    // SAFETY: zero is valid for the batch, and its tensors are ours on success.
    unsafe {
        let mut batch: abi::Batch = sized();
        checked(|error| call(&mut batch, error))?;
        macro_rules! taken {
            ($($field:ident),*) => { vec![$((stringify!($field), tensor::import(batch.$field).unwrap())),*] };
        }
        Ok((batch_fields!(taken), batch.num_contributing))
    }
}

/// `collate`.
///
/// # Errors
/// Returns the failure of the call.
pub fn collate(
    samples: &[Handle<abi::TokenizedSample>],
    lambda: &[f64],
    options: &abi::CollateOptions,
) -> Result<NamedBatch, Failure> {
    let raw: Vec<*const abi::TokenizedSample> = samples.iter().map(|sample| sample.raw().cast_const()).collect();
    // SAFETY: all pointers are valid.
    batch(|batch, error| unsafe { (api().collate)(raw.as_ptr(), raw.len(), lambda.as_ptr(), options, batch, error) })
}
