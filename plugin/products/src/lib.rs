//! Products of matrices whose results are float32 though their operands have 16 bits.
//!
//! libtorch rounds the result of a product to the dtype of its operands. Logits near 40 are then off by up to 0.13 in
//! bfloat16, and so are their log-probs. The products of 16-bit numbers are exact in float32, so a result that leaves the
//! accumulator as it is has the error of float32.
//!
//! | where | how |
//! |---|---|
//! | CUDA | libtorch's `mm` with an output dtype |
//! | CPU with AMX for the dtype | the kernels of libtorch's attention (`amx.cpp`), which work on blocks |
//! | other CPUs | a block of the operand is widened at a time, and multiplied in float32: faster than in 16 bits there |
//!
//! # Invariants
//!
//! - Autocast changes nothing: it does not affect functions that write to a given tensor.
//! - The plugin's only unsafe code besides that of the cdylib is here.

use std::ffi::{CStr, c_char, c_void};
use std::sync::LazyLock;

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

unsafe extern "C" {
    fn ldpo_has_amx(is_bfloat16: bool) -> bool;
    fn ldpo_amx_product(
        left: *const C_tensor,
        right: *const C_tensor,
        result: *const C_tensor,
        accumulates: bool,
    ) -> *mut c_char;
    fn free(pointer: *mut c_void);
}

/// Size of the float32 copies of an operand's block, if it is widened.
const WIDENED_BYTES: i64 = 8 << 20;

// SAFETY: it only asks the processor.
static HAS_AMX_BFLOAT16: LazyLock<bool> = LazyLock::new(|| unsafe { ldpo_has_amx(true) });
// SAFETY: as above.
static HAS_AMX_FLOAT16: LazyLock<bool> = LazyLock::new(|| unsafe { ldpo_has_amx(false) });

/// Returns whether a product of operands of this dtype is computed in float32, after widening them.
#[must_use]
pub fn widens(kind: Kind, device: Device) -> bool {
    match (kind, device) {
        (Kind::Float | Kind::Double, _) | (_, Device::Cuda(_)) => false,
        (Kind::BFloat16, Device::Cpu) => !*HAS_AMX_BFLOAT16,
        (Kind::Half, Device::Cpu) => !*HAS_AMX_FLOAT16,
        _ => true,
    }
}

/// Returns left · right as a new tensor, in float32 (float64 for float64 operands).
///
/// # Shapes
///
/// `[m, k]` and `[k, n]` to `[m, n]`. Operands have one dtype, or the left one is float32 where [`widens`] holds.
///
/// # Errors
///
/// Errors from libtorch.
pub fn product(left: &Tensor, right: &Tensor) -> Result<Tensor, TchError> {
    let kind = if left.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let result = Tensor::f_empty([left.size()[0], right.size()[1]], (kind, left.device()))?;
    write(left, right, &result, false)?;
    Ok(result)
}

/// Adds left · right to `result`, which is float32 (float64 for float64 operands).
///
/// # Shapes
///
/// `[m, k]` and `[k, n]` to `[m, n]`, as for [`product`].
///
/// # Errors
///
/// Errors from libtorch.
pub fn add_product(left: &Tensor, right: &Tensor, result: &Tensor) -> Result<(), TchError> {
    write(left, right, result, true)
}

/// Writes left · right to `result`, rounded once to the operands' dtype, which is the result's.
///
/// # Shapes
///
/// `[m, k]` and `[k, n]` to `[m, n]`, as for [`product`].
///
/// # Errors
///
/// Errors from libtorch.
pub fn rounded_product(left: &Tensor, right: &Tensor, result: &Tensor) -> Result<(), TchError> {
    if !widens(right.kind(), right.device()) {
        return in_one_dtype(left, right, result, false);
    }
    let (rows, terms) = left.size2()?;
    let length = block(terms.max(right.size()[1]));
    for start in (0..rows).step_by(length as usize) {
        let length = length.min(rows - start);
        result.f_narrow(0, start, length)?.f_copy_(&product(&left.f_narrow(0, start, length)?, right)?)?;
    }
    Ok(())
}

fn write(left: &Tensor, right: &Tensor, result: &Tensor, accumulates: bool) -> Result<(), TchError> {
    let (kind, device) = (right.kind(), right.device());
    if widens(kind, device) {
        return widened(left, right, result, accumulates);
    }
    let is_narrow = !matches!(kind, Kind::Float | Kind::Double);
    match device {
        Device::Cpu if is_narrow => amx(left, right, result, accumulates),
        _ if accumulates && is_narrow => {
            let _ = result.shallow_clone().f_add_(&product(left, right)?)?;
            Ok(())
        }
        _ if is_narrow => left.f_mm_dtype_out(result, right, Kind::Float).map(drop),
        _ => in_one_dtype(left, right, result, accumulates),
    }
}

fn in_one_dtype(left: &Tensor, right: &Tensor, result: &Tensor, accumulates: bool) -> Result<(), TchError> {
    let _ = if accumulates { result.shallow_clone().f_addmm_(left, right)? } else { left.f_mm_out(result, right)? };
    Ok(())
}

/// Widens a block of columns of the right operand at a time, or of its rows if it has more of those.
fn widened(left: &Tensor, right: &Tensor, result: &Tensor, accumulates: bool) -> Result<(), TchError> {
    let float = |tensor: &Tensor| tensor.f_to_kind(Kind::Float);
    let (terms, columns) = right.size2()?;
    let rows = left.size()[0];
    if columns >= terms {
        let left = float(left)?;
        let length = block(terms);
        for start in (0..columns).step_by(length as usize) {
            let length = length.min(columns - start);
            let right = float(&right.f_narrow(1, start, length)?)?;
            in_one_dtype(&left, &right, &result.f_narrow(1, start, length)?, accumulates)?;
        }
        return Ok(());
    }
    let length = block(columns.max(rows));
    for start in (0..terms).step_by(length as usize) {
        let length = length.min(terms - start);
        let (left, right) = (float(&left.f_narrow(1, start, length)?)?, float(&right.f_narrow(0, start, length)?)?);
        in_one_dtype(&left, &right, result, accumulates || start > 0)?;
    }
    Ok(())
}

/// Returns the number of rows of this width that are widened at a time.
fn block(width: i64) -> i64 {
    (WIDENED_BYTES / (4 * width.max(1))).max(64)
}

fn amx(left: &Tensor, right: &Tensor, result: &Tensor, accumulates: bool) -> Result<(), TchError> {
    let without_gaps = |tensor: &Tensor, dim: usize| tensor.stride()[dim] == 1;
    let left = if without_gaps(left, 1) { left.shallow_clone() } else { left.f_contiguous()? };
    let has_order = without_gaps(right, 0) || without_gaps(right, 1);
    let right = if has_order { right.shallow_clone() } else { right.f_contiguous()? };
    let fits = left.kind() == right.kind() && left.size()[1] == right.size()[0];
    let shape = [left.size()[0], right.size()[1]];
    if !fits || result.size() != shape || result.kind() != Kind::Float || !without_gaps(result, 1) {
        return Err(TchError::Torch(format!(
            "a product of {:?} {:?} and {:?} {:?} does not fit a result of {:?} {:?}",
            left.kind(),
            left.size(),
            right.kind(),
            right.size(),
            result.kind(),
            result.size()
        )));
    }
    if shape.contains(&0) {
        return Ok(());
    }
    if left.size()[1] == 0 {
        return if accumulates { Ok(()) } else { result.shallow_clone().f_zero_().map(drop) };
    }
    // SAFETY: the tensors live through the call, and their dtypes, shapes and strides were checked.
    check(unsafe { ldpo_amx_product(left.as_ptr(), right.as_ptr(), result.as_ptr(), accumulates) })
}

/// Turns the message that the C++ side allocated into an error; NULL is success.
fn check(message: *mut c_char) -> Result<(), TchError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a non-NULL message is a NUL-terminated string from strdup, and ours to free.
    unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        free(message.cast());
        Err(TchError::Torch(text))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// The largest error of `found`, in units of float32's rounding of Σ |left| · |right|.
    fn error(found: &Tensor, left: &Tensor, right: &Tensor, added: f64) -> f64 {
        let (left, right) = (left.to_kind(Kind::Double), right.to_kind(Kind::Double));
        let magnitude = left.abs().matmul(&right.abs()) + 1.0 + added;
        let error: Tensor = (found.to_kind(Kind::Double) - left.matmul(&right) - added).abs() / magnitude;
        error.max().double_value(&[]) / 2f64.powi(-24)
    }

    /// A sum of k terms in any order is off by at most k roundings of Σ |terms|; the sums of an accumulator by far fewer.
    #[test]
    fn products_of_16_bits_have_the_error_of_float32() {
        tch::manual_seed(5);
        for kind in [Kind::BFloat16, Kind::Half] {
            for (m, k, n) in [
                (1, 1, 1),
                (3, 7, 5),
                (5, 64, 513),
                (130, 577, 70),
                (129, 64, 128),
                (2, 9000, 33),
                (7, 4097, 65),
                (40, 2, 64),
            ] {
                let options = (Kind::Float, Device::Cpu);
                let left = Tensor::randn([m, k], options).to_kind(kind);
                let columns = Tensor::randn([n, k], options).to_kind(kind);
                for right in [columns.transpose(0, 1), columns.transpose(0, 1).contiguous()] {
                    let found = product(&left, &right).unwrap();
                    assert_eq!((found.kind(), found.size()), (Kind::Float, vec![m, n]));
                    let off = error(&found, &left, &right, 0.0);
                    assert!(off < 32.0, "{kind:?} [{m}, {k}] · [{k}, {n}]: {off} roundings");
                    // Into the middle of a wider matrix, on top of what is there.
                    let wide = Tensor::full([m, n + 3], 2.0, options);
                    add_product(&left, &right, &wide.narrow(1, 1, n)).unwrap();
                    assert!(error(&wide.narrow(1, 1, n), &left, &right, 2.0) < 32.0);
                    assert_eq!(wide.select(1, 0), Tensor::full([m], 2.0, options));
                    assert_eq!(wide.narrow(1, n + 1, 2), Tensor::full([m, 2], 2.0, options));
                }
            }
        }
    }

    #[test]
    fn empty_products_are_zero() {
        let empty = |m, n| Tensor::zeros([m, n], (Kind::BFloat16, Device::Cpu));
        assert_eq!(product(&empty(2, 0), &empty(0, 3)).unwrap(), Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)));
        assert_eq!(product(&empty(0, 4), &empty(4, 3)).unwrap().size(), [0, 3]);
    }

    #[test]
    fn strided_operands_are_read_as_they_are() {
        tch::manual_seed(6);
        let wide = Tensor::randn([40, 200], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
        let (left, right) = (wide.narrow(1, 3, 50), wide.narrow(1, 7, 50).transpose(0, 1));
        let expected = product(&left.contiguous(), &right.contiguous()).unwrap();
        assert!((product(&left, &right).unwrap() - expected).abs().max().double_value(&[]) < 1e-4);
        let every_other = wide.slice(1, 0, 100, 2);
        let expected = product(&every_other.contiguous(), &right).unwrap();
        assert!((product(&every_other, &right).unwrap() - expected).abs().max().double_value(&[]) < 1e-4);
    }
}
