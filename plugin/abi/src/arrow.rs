//! Arrow's C data and C stream interfaces, declared as its specification does (the header declares these only where no
//! Arrow header came before it).

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
    /// How many children.
    pub n_children: i64,
    /// Child types.
    pub children: *mut *mut ArrowSchema,
    /// Type of the dictionary's values; NULL where there is none.
    pub dictionary: *mut ArrowSchema,
    /// Called once by the consumer; NULL marks a released struct.
    pub release: Option<unsafe extern "C" fn(*mut ArrowSchema)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}

/// Arrow's C data interface: an array.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArray {
    /// Number of items.
    pub length: i64,
    /// Number of nulls; −1 where it is not known.
    pub null_count: i64,
    /// Items before the first one.
    pub offset: i64,
    /// How many buffers.
    pub n_buffers: i64,
    /// How many children.
    pub n_children: i64,
    /// Buffers; which ones depends on the type.
    pub buffers: *mut *const c_void,
    /// Child arrays.
    pub children: *mut *mut ArrowArray,
    /// The dictionary's values; NULL where there is none.
    pub dictionary: *mut ArrowArray,
    /// Called once by the consumer; NULL marks a released struct, and the end of a stream.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArray)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}

/// Arrow's C stream interface: arrays of one schema, one after another. One thread at a time.
#[repr(C)]
#[derive(Debug)]
pub struct ArrowArrayStream {
    /// Gives the schema of every array; 0, or an `errno` code.
    pub get_schema: Option<unsafe extern "C" fn(*mut ArrowArrayStream, out: *mut ArrowSchema) -> c_int>,
    /// Gives the next array, a released one at the end; 0, or an `errno` code.
    pub get_next: Option<unsafe extern "C" fn(*mut ArrowArrayStream, out: *mut ArrowArray) -> c_int>,
    /// NUL-terminated text about the last failure, valid until the next call; NULL where there is none.
    pub get_last_error: Option<unsafe extern "C" fn(*mut ArrowArrayStream) -> *const c_char>,
    /// Called once by the consumer; NULL marks a released stream.
    pub release: Option<unsafe extern "C" fn(*mut ArrowArrayStream)>,
    /// The producer's own.
    pub private_data: *mut c_void,
}
