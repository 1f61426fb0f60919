//! DLPack 1.x, declared as in `dlpack.h` (the header declares these only if `dlpack.h` was not included before it).

use core::ffi::c_void;

/// Version of the DLPack structs; versions with the same major are compatible.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
}

/// The DLPack version that this plugin writes.
pub const DLPACK_VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 0 };

/// Main memory.
pub const DL_CPU: i32 = 1;
/// CUDA device memory.
pub const DL_CUDA: i32 = 2;

/// Device of a tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// [`DL_CPU`] or [`DL_CUDA`] here.
    pub device_type: i32,
    /// Ordinal of the device; 0 on the CPU.
    pub device_id: i32,
}

/// Signed integer.
pub const DL_INT: u8 = 0;
/// Unsigned integer.
pub const DL_UINT: u8 = 1;
/// IEEE floating point.
pub const DL_FLOAT: u8 = 2;
/// bfloat16.
pub const DL_BFLOAT: u8 = 4;
/// Boolean, one byte each.
pub const DL_BOOL: u8 = 6;

/// Element type of a tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// One of the `DL_*` type codes.
    pub code: u8,
    /// Bits of one element.
    pub bits: u8,
    /// Always 1 here.
    pub lanes: u16,
}

/// A strided view of memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DLTensor {
    /// Start of the allocation; NULL for an empty tensor.
    pub data: *mut c_void,
    /// Device of the data.
    pub device: DLDevice,
    /// Number of dimensions; 0 for a scalar.
    pub ndim: i32,
    /// Element type.
    pub dtype: DLDataType,
    /// `ndim` sizes.
    pub shape: *mut i64,
    /// `ndim` strides in elements (0 for an expanded dimension); NULL means row-major and compact.
    pub strides: *mut i64,
    /// Bytes from `data` to the first element.
    pub byte_offset: u64,
}

/// The tensor must not be written to.
pub const DLPACK_FLAG_READ_ONLY: u64 = 1;

/// A tensor with its owner.
#[repr(C)]
pub struct DLManagedTensorVersioned {
    /// Version of this struct.
    pub version: DLPackVersion,
    /// Private to the owner.
    pub manager_ctx: *mut c_void,
    /// Frees the tensor and this struct; called once, by the owner. May be NULL.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// Bitwise or of flags such as [`DLPACK_FLAG_READ_ONLY`].
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}
