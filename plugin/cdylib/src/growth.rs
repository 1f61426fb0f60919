//! Structs whose `struct_size` says how much of them a caller knows.
//!
//! The rules are those of [`abi::Api`], "Growth": fields beyond the end of a shorter struct count as zero and are not
//! written to; fields that a longer one adds must be zero. The fields of revision 1.0 are always there.

use std::mem::{MaybeUninit, offset_of};

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::Exported;

use crate::arguments::not_null;
use crate::failure::{Failure, Outcome};

/// A larger `struct_size` is garbage: reading that far would leave the caller's memory.
const MAXIMUM: usize = 4096;

/// A struct that starts with `struct_size` and grows at its end.
///
/// # Safety
/// It is `repr(C)`, its first field is `struct_size: usize`, it has no padding at its end, all of its bytes may be
/// zero, and a copy of it owns nothing.
pub unsafe trait Growing: Sized {
    /// Size in bytes of the struct in revision 1.0: no caller has less.
    const REVISION_1_SIZE: usize;
}

const fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// Names the last field of each struct in revision 1.0; these lines do not change when structs grow.
macro_rules! growing {
    ($($name:ty, up to $last:ident;)*) => {$(
        // SAFETY: the abi crate declares it with these properties, and the layout check enforces them; its fields are
        // integers, floats, nullable pointers and nullable functions.
        unsafe impl Growing for $name {
            const REVISION_1_SIZE: usize = offset_of!($name, $last) + field_size(|value: &$name| &value.$last);
        }
    )*};
}

growing! {
    abi::Error, up to len;
    abi::ConvertOptions, up to reserved;
    abi::TokenizeOptions, up to reserved;
    abi::CollateOptions, up to pad_token_id;
    abi::DatasetOptions, up to cache_dir;
    abi::ScheduleOptions, up to probabilities;
    abi::LossOptions, up to wants;
    abi::LossInputs, up to cuda_stream;
    abi::Batch, up to num_contributing;
    abi::LossOutputs, up to sft_losses;
    abi::LossGradients, up to sequence_log_probs;
    abi::BuildInfo, up to torch_version;
}

/// Returns the number of bytes of a struct that both sides know.
///
/// # Safety
/// `pointer` is NULL or points to `struct_size` readable bytes.
unsafe fn known_size<T: Growing>(pointer: *const T, name: &str) -> Outcome<usize> {
    not_null(pointer, name)?;
    // SAFETY: the struct starts with a readable usize.
    let found = unsafe { *pointer.cast::<usize>() };
    if !(T::REVISION_1_SIZE..=MAXIMUM).contains(&found) {
        return Err(Failure::argument(format!(
            "argument `{name}` has struct_size {found}, but the struct has at least {} bytes (this version's has {}): \
             set it to the struct's sizeof",
            T::REVISION_1_SIZE,
            size_of::<T>()
        )));
    }
    Ok(found.min(size_of::<T>()))
}

/// Copies a struct; fields that the caller does not know are zero.
///
/// # Errors
/// Returns a failure if the pointer is NULL or not aligned, `struct_size` is impossible, or a field is set that this
/// version does not know.
///
/// # Safety
/// `pointer` is NULL or points to a valid struct of its `struct_size`.
pub unsafe fn read<T: Growing>(pointer: *const T, name: &str) -> Outcome<T> {
    // SAFETY: the caller's promise; zero is valid for the rest, and a copy owns nothing.
    unsafe {
        let known = known_size(pointer, name)?;
        let found = *pointer.cast::<usize>();
        let unknown = std::slice::from_raw_parts(pointer.cast::<u8>().add(known), found - known);
        if unknown.iter().any(|byte| *byte != 0) {
            return Err(Failure::new(
                abi::STATUS_UNSUPPORTED,
                format!(
                    "argument `{name}` sets a field that this library does not know: it knows {known} of the struct's \
                     {found} bytes; use a library of the caller's version, or leave the field at 0"
                ),
            ));
        }
        let mut value = MaybeUninit::<T>::zeroed();
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), known);
        Ok(value.assume_init())
    }
}

/// An output struct, writable as far as the caller knows it.
pub struct Output<T> {
    pointer: *mut T,
    known: usize,
}

impl<T: Growing> Output<T> {
    /// Checks a struct before anything is written to it.
    ///
    /// # Errors
    /// Returns a failure if the pointer is NULL or not aligned, or `struct_size` is impossible.
    ///
    /// # Safety
    /// `pointer` is NULL or points to a valid struct of its `struct_size`, which nobody else uses until the result is
    /// dropped.
    pub unsafe fn new(pointer: *mut T, name: &str) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        let known = unsafe { known_size(pointer, name) }?;
        Ok(Self { pointer, known })
    }

    /// Returns the field at `offset`, if the caller knows it.
    ///
    /// # Safety
    /// There is a field of type `F` at `offset`.
    unsafe fn field<F>(&self, offset: usize) -> Option<*mut F> {
        // SAFETY: within the struct.
        (offset + size_of::<F>() <= self.known).then(|| unsafe { self.pointer.byte_add(offset).cast::<F>() })
    }

    /// Writes a field that owns nothing.
    ///
    /// # Safety
    /// There is a field of type `F` at `offset`.
    pub unsafe fn put<F: Copy>(&self, offset: usize, value: F) {
        // SAFETY: the caller's promise, here and in `new`.
        unsafe {
            if let Some(field) = self.field(offset) {
                *field = value;
            }
        }
    }

    /// Writes a tensor (NULL for None), which then belongs to the caller. It is freed if the caller does not know the
    /// field.
    ///
    /// # Safety
    /// There is a tensor at `offset`.
    pub unsafe fn put_tensor(&self, offset: usize, tensor: Option<Exported>) {
        // SAFETY: as in `put`; the former value belongs to the caller.
        unsafe {
            if let Some(field) = self.field::<abi::Tensor>(offset) {
                *field = tensor.map_or(std::ptr::null_mut(), Exported::into_raw);
            }
        }
    }

    /// Writes tensors, each at its offset.
    ///
    /// # Safety
    /// There is a tensor at each offset.
    pub unsafe fn put_tensors(&self, tensors: impl IntoIterator<Item = (usize, Option<Exported>)>) {
        for (offset, tensor) in tensors {
            // SAFETY: the caller's promise.
            unsafe { self.put_tensor(offset, tensor) };
        }
    }

    /// Takes a tensor out of the struct; NULL if there is none.
    ///
    /// # Safety
    /// There is a tensor at `offset`.
    pub unsafe fn take_tensor(&self, offset: usize) -> abi::Tensor {
        // SAFETY: as in `put`.
        unsafe {
            self.field::<abi::Tensor>(offset).map_or(std::ptr::null_mut(), |field| field.replace(std::ptr::null_mut()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::Value;

    use super::*;

    /// A struct as revision 1.0 had it, and as it is "now".
    #[repr(C)]
    struct Old {
        struct_size: usize,
        beta: f64,
    }

    #[repr(C)]
    #[derive(Debug, PartialEq)]
    struct New {
        struct_size: usize,
        beta: f64,
        bound: u64,
        tensor: abi::Tensor,
    }

    /// As a later header has it.
    #[repr(C)]
    struct Later {
        new: New,
        later: u64,
    }

    growing! { New, up to beta; }

    /// The structs of a caller that was compiled against the header of revision 1.0 are long enough; shorter ones are
    /// not.
    #[test]
    fn revision_1_is_what_its_layout_says() {
        macro_rules! sizes {
            ($($name:ident),* $(,)?) => {
                [$((concat!("LambdaDpo", stringify!($name)), <abi::$name as Growing>::REVISION_1_SIZE)),*]
            };
        }
        let sizes = sizes!(
            Batch,
            BuildInfo,
            CollateOptions,
            ConvertOptions,
            DatasetOptions,
            Error,
            LossGradients,
            LossInputs,
            LossOptions,
            LossOutputs,
            ScheduleOptions,
            TokenizeOptions,
        );
        let layout: Value = serde_json::from_str(include_str!("../../../schemas/abi-1.0.json")).unwrap();
        let mut expected: Vec<(&str, usize)> = layout["structs"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, layout)| *name != "LambdaDpoApi" && layout["fields"].get("struct_size").is_some())
            .map(|(name, layout)| (name.as_str(), layout["size"].as_u64().unwrap() as usize))
            .collect();
        expected.sort_unstable();
        assert_eq!(expected, sizes);
    }

    fn new(struct_size: usize) -> New {
        New { struct_size, beta: 0.5, bound: 7, tensor: std::ptr::null_mut() }
    }

    fn message<T>(outcome: Outcome<T>) -> String {
        format!("{:?}", outcome.err().unwrap())
    }

    #[test]
    fn fields_beyond_a_shorter_struct_are_zero() {
        let old = Old { struct_size: size_of::<Old>(), beta: 0.25 };
        // SAFETY: valid for its struct_size.
        let read = unsafe { read((&raw const old).cast::<New>(), "options") }.unwrap();
        assert_eq!(read, New { struct_size: 16, beta: 0.25, bound: 0, tensor: std::ptr::null_mut() });
        // SAFETY: valid.
        let read = unsafe { self::read(&new(size_of::<New>()), "options") }.unwrap();
        assert_eq!(read.bound, 7);
    }

    #[test]
    fn impossible_sizes_are_rejected() {
        for struct_size in [0, 8, 15, MAXIMUM + 1, usize::MAX] {
            // SAFETY: only the first field is read.
            let message = message(unsafe { read(&new(struct_size), "options") });
            assert!(message.contains(&format!("`options` has struct_size {struct_size}, but")), "{message}");
        }
    }

    #[test]
    fn a_longer_struct_may_add_only_zeros() {
        let mut later = Later { new: new(size_of::<Later>()), later: 0 };
        // SAFETY: valid for its struct_size.
        unsafe {
            assert_eq!(read((&raw const later).cast::<New>(), "options").unwrap().bound, 7);
            later.later = 1;
            let message = message(read((&raw const later).cast::<New>(), "options"));
            assert!(message.contains("it knows 32 of the struct's 40 bytes"), "{message}");
        }
    }

    #[test]
    fn nothing_is_written_beyond_what_the_caller_knows() {
        let tensor = || abi::tensor::export(&tch::Tensor::from_slice(&[1_i64])).unwrap();
        // SAFETY: valid; the struct says that it ends after `beta`.
        unsafe {
            let mut short = new(size_of::<Old>());
            let output = Output::new(&mut short, "outputs").unwrap();
            output.put(offset_of!(New, beta), 1.0_f64);
            output.put(offset_of!(New, bound), 9_u64);
            output.put_tensor(offset_of!(New, tensor), Some(tensor()));
            assert_eq!((short.beta, short.bound, short.tensor.is_null()), (1.0, 7, true));

            let mut whole = new(size_of::<New>());
            let output = Output::new(&mut whole, "outputs").unwrap();
            output.put(offset_of!(New, bound), 9_u64);
            output.put_tensor(offset_of!(New, tensor), Some(tensor()));
            assert_eq!(whole.bound, 9);
            abi::tensor::free_tensor(output.take_tensor(offset_of!(New, tensor)));
            assert!(whole.tensor.is_null());
        }
    }
}
