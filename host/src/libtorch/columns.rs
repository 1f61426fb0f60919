//! Products of a weight and a few tokens, with the tokens' values as columns.
//!
//! For some ten tokens, MKL multiplies W · Xᵀ in three quarters of the time of X · Wᵀ, if the values of Xᵀ lie in rows. A
//! tensor [R, 1, H] whose values lie so has the strides (1, …, R): elementwise operations keep them, so that a chain of
//! linear layers needs one copy at its beginning.

use tch::{Device, Kind, TchError, Tensor};

/// Numbers of tokens for which that is faster. With fewer, reading the weight takes the time; with more, MKL packs both.
const NUM_TOKENS: std::ops::RangeInclusive<i64> = 8..=32;

/// Stores the values of one token of each row, [R, 1, H], by columns if that is faster for products; else returns `input`.
///
/// # Errors
///
/// Returns an error if memory is exhausted.
pub fn by_columns(input: &Tensor) -> Result<Tensor, TchError> {
    let is_few = matches!(input.size().as_slice(), [rows, 1, _] if NUM_TOKENS.contains(rows));
    if !is_few || input.f_kind()? != Kind::Float || input.device() != Device::Cpu {
        return Ok(input.shallow_clone());
    }
    input.f_squeeze_dim(1)?.f_transpose(0, 1)?.f_contiguous()?.f_transpose(0, 1)?.f_unsqueeze(1)
}

/// W x + b of an input that is stored by columns, stored by columns too. Returns None for other inputs.
///
/// # Shapes
///
/// `input`: [R, 1, in]; `weight`: [out, in]; `bias`: `[out]`; the result: [R, 1, out].
pub fn linear(input: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Option<Result<Tensor, TchError>> {
    let &[num_rows, 1, size] = input.size().as_slice() else { return None };
    let is_by_columns = matches!(input.stride().as_slice(), [1, _, stride] if *stride == num_rows);
    if num_rows < 2 || size < 2 || !is_by_columns {
        return None;
    }
    let product = |columns: &Tensor| match bias {
        Some(bias) => bias.f_unsqueeze(1)?.f_addmm(weight, columns),
        None => weight.f_mm(columns),
    };
    Some(input.f_squeeze_dim(1).and_then(|rows| product(&rows.f_transpose(0, 1)?)?.f_transpose(0, 1)?.f_unsqueeze(1)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn products_by_columns_are_those_by_rows() {
        tch::manual_seed(6);
        let options = (Kind::Float, Device::Cpu);
        let (weight, bias) = (Tensor::randn([12, 20], options), Tensor::randn([12], options));
        let input = Tensor::randn([8, 1, 20], options);
        let columns = by_columns(&input).unwrap();
        assert_eq!(columns, input);
        for bias in [None, Some(&bias)] {
            let found = linear(&columns, &weight, bias).unwrap().unwrap();
            // Sums of 20 products of about 1.
            assert!(f64::try_from((&found - input.linear(&weight, bias)).abs().max()).unwrap() < 1e-5);
            // The next layer needs no copy.
            assert!(linear(&(found.silu() * &found), &Tensor::randn([3, 12], options), None).is_some());
        }
    }

    #[test]
    fn other_inputs_stay_as_they_are() {
        for (shape, kind) in [
            ([1, 1, 20], Kind::Float),
            ([33, 1, 20], Kind::Float),
            ([8, 2, 20], Kind::Float),
            ([8, 1, 20], Kind::Double),
            ([8, 1, 20], Kind::BFloat16),
        ] {
            let input = by_columns(&Tensor::ones(shape, (kind, Device::Cpu))).unwrap();
            assert!(input.is_contiguous());
            assert!(linear(&input, &Tensor::ones([3, 20], (kind, Device::Cpu)), None).is_none());
        }
    }
}
