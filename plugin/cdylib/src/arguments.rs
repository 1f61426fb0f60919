//! Conversion of arguments from C: pointers to references, flags to bools. Every error names the argument.

use std::path::PathBuf;

use lambda_dpo_abi as abi;

use crate::failure::{Failure, Outcome};

/// Rejects a pointer that cannot be one to a `T`.
pub fn not_null<T>(pointer: *const T, name: &str) -> Outcome {
    if pointer.is_null() {
        return Err(Failure::argument(format!("argument `{name}` is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("argument `{name}` is not aligned")));
    }
    Ok(())
}

/// Borrows a value to write to.
///
/// # Safety
/// `pointer` is NULL or points to a valid `T` that outlives `'a` and that nobody else uses during it.
pub unsafe fn reference_mut<'a, T>(pointer: *mut T, name: &str) -> Outcome<&'a mut T> {
    not_null(pointer, name)?;
    // SAFETY: not NULL, aligned, and the caller's promise.
    Ok(unsafe { &mut *pointer })
}

/// Writes an output.
///
/// # Safety
/// `pointer` is NULL or writable.
pub unsafe fn write<T>(pointer: *mut T, value: T, name: &str) -> Outcome {
    not_null(pointer, name)?;
    // SAFETY: not NULL, aligned, and the caller's promise; the former value belongs to the caller.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Borrows an array; if `len` is 0, NULL is allowed.
///
/// # Safety
/// `pointer` is NULL or points to `len` valid values that outlive `'a`.
pub unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    not_null(pointer, name)?;
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::argument(format!("argument `{name}` has the impossible length {len}")));
    }
    // SAFETY: not NULL, aligned, of a possible length, and the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Borrows text.
///
/// # Safety
/// `text` holds NULL or `len` readable bytes that outlive `'a`.
pub unsafe fn text<'a>(text: abi::Str, name: &str) -> Outcome<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { slice(text.data, text.len, name) }?;
    std::str::from_utf8(bytes).map_err(|error| {
        Failure::argument(format!("argument `{name}` is not valid UTF-8: byte {} is out of place", error.valid_up_to()))
    })
}

/// Copies a list of texts.
///
/// # Safety
/// As [`slice`] and [`text`].
pub unsafe fn texts(pointer: *const abi::Str, len: usize, name: &str) -> Outcome<Vec<String>> {
    // SAFETY: the caller's promise.
    unsafe { slice(pointer, len, name)?.iter().map(|item| Ok(text(*item, name)?.to_owned())).collect() }
}

/// Copies a list of paths.
///
/// # Safety
/// As [`slice`] and [`text`].
pub unsafe fn paths(pointer: *const abi::Str, len: usize, name: &str) -> Outcome<Vec<PathBuf>> {
    // SAFETY: the caller's promise.
    Ok(unsafe { texts(pointer, len, name) }?.into_iter().map(PathBuf::from).collect())
}

/// Lends static text to C.
pub fn str_of(text: &'static str) -> abi::Str {
    abi::Str { data: text.as_ptr(), len: text.len() }
}

/// Checks a field that is reserved for a later version.
pub fn unused(value: u32, name: &str) -> Outcome {
    match value {
        0 => Ok(()),
        other => Err(Failure::argument(format!("`{name}` is {other}, expected 0"))),
    }
}

/// Converts a flag of the ABI.
pub fn flag(value: u32, name: &str) -> Outcome<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Failure::argument(format!("`{name}` is {other}, expected 0 or 1"))),
    }
}
