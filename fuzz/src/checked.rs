//! Calls of the table with what each must keep: it returns a status other than a panic's, refuses what is no live handle,
//! leaves its outputs untouched if it fails, and writes no more of a message than there is room for.
//!
//! # Panics
//!
//! Every function here panics if a call does not: that is a finding.

use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_tests::table::no_bytes;

use crate::handles::Picked;

/// Makes a call, with room for `room` bytes of its message. Returns whether it succeeded.
pub fn succeeds(room: usize, call: impl FnOnce(*mut abi::Error) -> abi::Status) -> bool {
    const CANARY: u8 = 0xA5;
    let mut buffer = [CANARY; 64];
    let room = room % 48;
    let mut error = abi::Error {
        struct_size: size_of::<abi::Error>(),
        buffer: buffer.as_mut_ptr(),
        capacity: room,
        len: usize::MAX,
    };
    let status = call(&mut error);
    assert!((abi::STATUS_OK..=abi::STATUS_CANCELLED).contains(&status), "status {status}");
    assert_ne!(status, abi::STATUS_PANIC);
    assert!(buffer[room..].iter().all(|byte| *byte == CANARY), "the message is longer than its room");
    if status == abi::STATUS_OK {
        assert_eq!(error.len, 0, "a message without a failure");
        return true;
    }
    assert!(error.len > 0 && error.len != usize::MAX, "a failure without a message");
    let written = &buffer[..error.len.min(room)];
    let whole = written.split(|byte| *byte == CANARY).next().unwrap_or_default();
    assert!(std::str::from_utf8(whole).is_ok(), "the message is cut inside a character");
    false
}

/// Makes a call on a handle, which must fail unless the handle is alive.
pub fn succeeds_on(handle: Picked, call: impl FnOnce(*mut abi::Error) -> abi::Status) -> bool {
    let succeeded = succeeds(40, call);
    assert!(handle.is_live || !succeeded, "a call has accepted a handle that is not alive");
    succeeded
}

/// Makes a call that returns bytes, and frees them.
pub fn bytes(
    api: &abi::Api,
    handle: Option<Picked>,
    call: impl FnOnce(*mut abi::Bytes, *mut abi::Error) -> abi::Status,
) {
    let mut bytes = no_bytes();
    let call = |error: *mut abi::Error| call(&mut bytes, error);
    let succeeded = match handle {
        Some(handle) => succeeds_on(handle, call),
        None => succeeds(7, call),
    };
    assert!(succeeded || bytes.data.is_null(), "a failing call has written its output");
    if !bytes.data.is_null() {
        // SAFETY: the bytes are the call's, valid until they are freed.
        let read = unsafe { std::slice::from_raw_parts(bytes.data, bytes.len) };
        assert!(std::str::from_utf8(read).is_ok(), "bytes that are no UTF-8");
    }
    // SAFETY: of a call, or NULL; freed twice, which is allowed.
    unsafe {
        (api.bytes_free)(&mut bytes);
        (api.bytes_free)(&mut bytes);
    }
}

/// Makes a call that returns a tensor, and frees it.
pub fn tensor(handle: Option<Picked>, call: impl FnOnce(*mut abi::Tensor, *mut abi::Error) -> abi::Status) {
    let mut tensor: abi::Tensor = null_mut();
    let call = |error: *mut abi::Error| call(&mut tensor, error);
    let succeeded = match handle {
        Some(handle) => succeeds_on(handle, call),
        None => succeeds(20, call),
    };
    assert_eq!(succeeded, !tensor.is_null());
    // SAFETY: ours, or NULL.
    unsafe { abi::tensor::free_tensor(tensor) };
}
