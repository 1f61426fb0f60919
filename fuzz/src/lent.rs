//! Tensors of any description, lent to a call: dtypes, shapes, strides and offsets over memory that is always valid.

use std::ptr::null_mut;

use arbitrary::Arbitrary;
use lambda_dpo_abi as abi;

/// Memory of every tensor: small numbers in any dtype, and large enough for every description.
static MEMORY: [u64; 1 << 16] = [1; 1 << 16];

/// What a tensor says of itself.
#[derive(Arbitrary, Debug)]
pub struct Description {
    version: u8,
    device: u8,
    code: u8,
    bits: u8,
    lanes: u8,
    shape: Vec<u8>,
    strides: Option<Vec<i8>>,
    byte_offset: u8,
    is_null: bool,
}

/// A tensor with the arrays it points to.
pub struct Lent {
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
    raw: abi::DLManagedTensorVersioned,
}

impl Lent {
    /// Makes the tensor, of at most three dimensions of at most seven, so that every description fits the memory.
    #[must_use]
    pub fn new(description: &Description) -> Box<Self> {
        let shape: Vec<i64> = description.shape.iter().take(3).map(|size| i64::from(size % 8)).collect();
        let strides = description.strides.as_ref().map(|strides| {
            (0..shape.len()).map(|i| strides.get(i).map_or(1, |stride| i64::from(*stride))).collect::<Vec<_>>()
        });
        // Most have a supported dtype.
        let (code, bits) = match description.code % 8 {
            0 => (abi::DL_INT, 64),
            1 => (abi::DL_FLOAT, 32),
            2 => (abi::DL_FLOAT, 64),
            3 => (abi::DL_BFLOAT, 16),
            4 => (abi::DL_BOOL, 8),
            5 => (abi::DL_FLOAT, 16),
            _ => (description.code, description.bits),
        };
        let device_type = if description.device < 250 { 1 } else { 2 };
        let dtype = abi::DLDataType { code, bits, lanes: if description.lanes < 250 { 1 } else { 2 } };
        Self::boxed(shape, strides, dtype, |raw| {
            raw.version.major = u32::from(description.version % 16 != 15);
            raw.dl_tensor.device.device_type = device_type;
            raw.dl_tensor.byte_offset = u64::from(description.byte_offset % 32) * 8;
            if description.is_null {
                raw.dl_tensor.data = null_mut();
            }
        })
    }

    /// Makes a float32 vector of at most 65,536 values.
    #[must_use]
    pub fn vector(len: usize) -> Box<Self> {
        let dtype = abi::DLDataType { code: abi::DL_FLOAT, bits: 32, lanes: 1 };
        Self::boxed(vec![len.min(1 << 16) as i64], None, dtype, |_| ())
    }

    fn boxed(
        shape: Vec<i64>,
        strides: Option<Vec<i64>>,
        dtype: abi::DLDataType,
        change: impl FnOnce(&mut abi::DLManagedTensorVersioned),
    ) -> Box<Self> {
        let raw = abi::DLManagedTensorVersioned {
            version: abi::DLPackVersion { major: 1, minor: 0 },
            manager_ctx: null_mut(),
            deleter: None,
            flags: abi::DLPACK_FLAG_READ_ONLY,
            dl_tensor: abi::DLTensor {
                data: MEMORY.as_ptr().cast_mut().cast(),
                device: abi::DLDevice { device_type: 1, device_id: 0 },
                ndim: shape.len() as i32,
                dtype,
                shape: null_mut(),
                strides: null_mut(),
                byte_offset: 0,
            },
        };
        let mut lent = Box::new(Self { shape, strides, raw });
        lent.raw.dl_tensor.shape = lent.shape.as_mut_ptr();
        lent.raw.dl_tensor.strides = lent.strides.as_mut().map_or(null_mut(), |strides| strides.as_mut_ptr());
        change(&mut lent.raw);
        lent
    }

    /// The tensor, for a call while this is alive.
    pub fn raw(&mut self) -> abi::Tensor {
        &raw mut self.raw
    }
}
