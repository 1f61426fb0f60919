//! Arrow's C stream interface: streams of record batches from C, and streams of samples to C.
//!
//! The arrow crate's own reader and writer of such streams panic if a producer has no message, a text contains NUL or a
//! struct violates the interface; these return errors instead.

use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::{Array, RecordBatch, RecordBatchOptions, RecordBatchReader, StructArray};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use lambda_dpo_abi as abi;
use lambda_dpo_core::error::panic_text;
use lambda_dpo_core::{Result, Sample, SampleBatches};

use crate::arguments::reference_mut;
use crate::failure::{Failure, Outcome};

const EIO: c_int = 5;
const EINVAL: c_int = 22;

const RELEASED: abi::ArrowArrayStream = abi::ArrowArrayStream {
    get_schema: None,
    get_next: None,
    get_last_error: None,
    release: None,
    private_data: null_mut(),
};

/// Runs arrow's conversion of foreign structs, which panics if they violate the interface.
fn reading<T>(body: impl FnOnce() -> std::result::Result<T, ArrowError>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("it violates Arrow's C data interface: {}", panic_text(&*panic))),
    }
}

/// A stream from C; released when dropped.
pub struct ImportedStream {
    stream: abi::ArrowArrayStream,
    schema: SchemaRef,
}

// SAFETY: the interface lets any one thread at a time use a stream.
unsafe impl Send for ImportedStream {}

impl ImportedStream {
    /// Takes ownership of a stream and marks the caller's struct as released. On failure the struct is unchanged if it was NULL
    /// or released already.
    ///
    /// # Safety
    /// `stream` is NULL or valid.
    pub unsafe fn take(stream: *mut abi::ArrowArrayStream) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let stream = unsafe { reference_mut(stream, "stream") }?;
        if stream.release.is_none() {
            return Err(Failure::argument("argument `stream` is released already"));
        }
        let stream = std::mem::replace(stream, RELEASED);
        let mut imported = Self { stream, schema: Arc::new(Schema::empty()) };
        imported.schema = imported.read_schema().map_err(|problem| {
            Failure::new(abi::STATUS_INVALID_DATA, format!("the schema of `stream` cannot be read: {problem}"))
        })?;
        Ok(imported)
    }

    fn read_schema(&mut self) -> std::result::Result<SchemaRef, String> {
        let get_schema = self.stream.get_schema.ok_or("`get_schema` is NULL")?;
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: the stream is alive; arrow's struct is the interface's, as the abi crate's is.
        match unsafe { get_schema(&mut self.stream, (&raw mut schema).cast()) } {
            0 => reading(|| Schema::try_from(&schema)).map(Arc::new),
            code => Err(self.last_error(code)),
        }
    }

    fn read_next(&mut self) -> std::result::Result<Option<RecordBatch>, String> {
        let get_next = self.stream.get_next.ok_or("`get_next` is NULL")?;
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: as in `read_schema`.
        match unsafe { get_next(&mut self.stream, (&raw mut array).cast()) } {
            0 if array.is_released() => Ok(None),
            0 => reading(|| self.to_batch(array)).map(Some),
            code => Err(self.last_error(code)),
        }
    }

    fn to_batch(&self, array: FFI_ArrowArray) -> std::result::Result<RecordBatch, ArrowError> {
        // SAFETY: the producer promises an array of its schema, whose buffers are as long as it says.
        let data = unsafe { from_ffi_and_data_type(array, DataType::Struct(self.schema.fields().clone())) }?;
        // Checks offsets against the length of their values, and text for UTF-8.
        data.validate_full()?;
        let options = RecordBatchOptions::new().with_row_count(Some(data.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), StructArray::from(data).into_parts().1, &options)
    }

    /// Returns the producer's message about a failure, or its code.
    fn last_error(&mut self, code: c_int) -> String {
        let message = match self.stream.get_last_error {
            // SAFETY: the stream is alive.
            Some(get_last_error) => unsafe { get_last_error(&mut self.stream) },
            None => null(),
        };
        if message.is_null() {
            return format!("its producer failed with error code {code}");
        }
        // SAFETY: not NULL, and the interface promises NUL-terminated text that lives until the next call.
        unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
    }
}

impl Drop for ImportedStream {
    fn drop(&mut self) {
        if let Some(release) = self.stream.release {
            // SAFETY: the stream is ours, and not used again.
            unsafe { release(&mut self.stream) };
        }
    }
}

impl Iterator for ImportedStream {
    type Item = std::result::Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().map_err(|problem| ArrowError::ExternalError(problem.into())).transpose()
    }
}

impl RecordBatchReader for ImportedStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Samples of an outgoing stream.
pub type Samples = Box<dyn Iterator<Item = Result<Sample>> + Send>;

/// The `private_data` of an outgoing stream.
struct Producer {
    batches: SampleBatches<Samples>,
    last_error: Option<CString>,
}

/// Writes a stream of samples to `stream`.
///
/// # Safety
/// `stream` is NULL or writable.
pub unsafe fn give_stream(samples: Samples, stream: *mut abi::ArrowArrayStream) -> Outcome {
    // SAFETY: the caller's promise.
    let stream = unsafe { reference_mut(stream, "stream") }?;
    let producer = Box::new(Producer { batches: SampleBatches::new(samples), last_error: None });
    // The former value belongs to the caller.
    *stream = abi::ArrowArrayStream {
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release),
        private_data: Box::into_raw(producer).cast(),
    };
    Ok(())
}

/// Runs a call on an outgoing stream: failures and panics become a code, with a message for `get_last_error`.
///
/// # Safety
/// `stream` is NULL or a stream of [`give_stream`], used by one thread at a time.
unsafe fn answer(
    stream: *mut abi::ArrowArrayStream,
    body: impl FnOnce(&mut Producer) -> std::result::Result<(), String>,
) -> c_int {
    // SAFETY: the caller's promise; a released stream has no private data.
    let producer = unsafe { stream.as_ref().and_then(|stream| stream.private_data.cast::<Producer>().as_mut()) };
    let Some(producer) = producer else { return EINVAL };
    let (code, message) = match catch_unwind(AssertUnwindSafe(|| body(producer))) {
        Ok(Ok(())) => return 0,
        Ok(Err(message)) => (EINVAL, message),
        Err(panic) => (EIO, defect(&*panic)),
    };
    producer.last_error = CString::new(message.replace('\0', "\u{fffd}")).ok();
    code
}

fn defect(panic: &(dyn Any + Send)) -> String {
    format!("a defect in the plugin stopped this stream, please report it: {}", panic_text(panic))
}

unsafe extern "C" fn get_schema(stream: *mut abi::ArrowArrayStream, out: *mut abi::ArrowSchema) -> c_int {
    // SAFETY: the consumer follows the interface's rules.
    unsafe {
        answer(stream, |producer| {
            let schema = FFI_ArrowSchema::try_from(&*producer.batches.schema()).map_err(|error| error.to_string())?;
            hand_over(schema, out.cast())
        })
    }
}

unsafe extern "C" fn get_next(stream: *mut abi::ArrowArrayStream, out: *mut abi::ArrowArray) -> c_int {
    // SAFETY: the consumer follows the interface's rules.
    unsafe {
        answer(stream, |producer| {
            let array = match producer.batches.next().transpose().map_err(|error| error.to_string())? {
                Some(batch) => FFI_ArrowArray::new(&StructArray::from(batch).to_data()),
                None => FFI_ArrowArray::empty(),
            };
            hand_over(array, out.cast())
        })
    }
}

/// Moves a value into the consumer's struct.
///
/// # Safety
/// `out` is NULL or writable.
unsafe fn hand_over<T>(value: T, out: *mut T) -> std::result::Result<(), String> {
    if out.is_null() {
        return Err("argument `out` is NULL".to_owned());
    }
    // SAFETY: not NULL, and the caller's promise; the consumer's struct may be aligned to less than Rust demands.
    unsafe { out.cast::<ManuallyDrop<T>>().write_unaligned(ManuallyDrop::new(value)) };
    Ok(())
}

unsafe extern "C" fn get_last_error(stream: *mut abi::ArrowArrayStream) -> *const c_char {
    // SAFETY: as in `answer`.
    unsafe {
        let producer = stream.as_ref().and_then(|stream| stream.private_data.cast::<Producer>().as_ref());
        producer.and_then(|producer| producer.last_error.as_ref()).map_or(null(), |message| message.as_ptr())
    }
}

unsafe extern "C" fn release(stream: *mut abi::ArrowArrayStream) {
    // SAFETY: the consumer calls this once, on a stream of `give_stream`, which it may have moved.
    unsafe {
        let Some(stream) = stream.as_mut() else { return };
        let producer = std::mem::replace(stream, RELEASED).private_data.cast::<Producer>();
        if !producer.is_null() {
            crate::guard::release(|| drop(Box::from_raw(producer)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_panic_inside_a_stream_is_a_code_with_a_message() {
        let samples = std::iter::from_fn(|| -> Option<Result<Sample>> { panic!("on\0purpose") });
        let mut stream = RELEASED;
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: a stream of ours, released once.
        unsafe {
            give_stream(Box::new(samples), &mut stream).unwrap();
            assert_eq!(stream.get_next.unwrap()(&mut stream, (&raw mut array).cast()), EIO);
            let message = CStr::from_ptr(stream.get_last_error.unwrap()(&mut stream)).to_str().unwrap();
            assert_eq!(message, "a defect in the plugin stopped this stream, please report it: on\u{fffd}purpose");
            stream.release.unwrap()(&mut stream);
        }
    }
}
