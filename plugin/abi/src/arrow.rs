//! Arrow's C data and C stream interfaces, declared as in its specification (the header declares these only if no Arrow
//! header was included before it).

use core::ffi::{c_char, c_int, c_void};

/// Arrow's C data interface: the type of an array.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowSchema {
    /// The type, in Arrow's format strings.
    pub format: *const c_char,
    /// Name of the field; may be NULL.
    pub name: *const c_char,
    /// Encoded key-value metadata; may be NULL.
    pub metadata: *const c_char,
    /// A sum of `ARROW_FLAG_*`.
    pub flags: i64,
    /// Number of children.
    pub n_children: i64,
    /// Child types.
    pub children: *mut *mut ArrowSchema,
    /// Type of the dictionary's values; NULL if there is none.
    pub dictionary: *mut ArrowSchema,
    /// Called once by the consumer; NULL marks a released struct.
    pub release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    /// Private to the producer.
    pub private_data: *mut c_void,
}

/// Arrow's C data interface: an array.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArray {
    /// Number of items.
    pub length: i64,
    /// Number of nulls; −1 if unknown.
    pub null_count: i64,
    /// Number of items before the first one.
    pub offset: i64,
    /// Number of buffers.
    pub n_buffers: i64,
    /// Number of children.
    pub n_children: i64,
    /// Buffers; their number and meaning depend on the type.
    pub buffers: *mut *const c_void,
    /// Child arrays.
    pub children: *mut *mut ArrowArray,
    /// The dictionary's values; NULL if there is none.
    pub dictionary: *mut ArrowArray,
    /// Called once by the consumer; NULL marks a released struct, and the end of a stream.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    /// Private to the producer.
    pub private_data: *mut c_void,
}

/// Arrow's C stream interface: arrays of one schema, one after another. One thread at a time.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArrayStream {
    /// Writes the schema of every array; returns 0 or an `errno` code.
    pub get_schema: Option<unsafe extern "C" fn(*mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int>,
    /// Writes the next array, or a released one at the end; returns 0 or an `errno` code.
    pub get_next: Option<unsafe extern "C" fn(*mut ArrowArrayStream, out: *mut ArrowArray) -> c_int>,
    /// Returns NUL-terminated text about the last failure, valid until the next call; NULL if there is none.
    pub get_last_error: Option<unsafe extern "C" fn(*mut ArrowArrayStream) -> *const c_char>,
    /// Called once by the consumer; NULL marks a released stream.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArrayStream)>,
    /// Private to the producer.
    pub private_data: *mut c_void,
}
