//! 4-bit NormalFloat (NF4): a matrix as 16 values a block, each times the block's largest absolute value, after QLoRA
//! (arXiv 2305.14314).
//!
//! Quantising gives the codes and scales of bitsandbytes to the last bit, and dequantising its values.

use crate::element::{Bf16, Element};

/// What the 16 codes stand for: quantiles of the normal distribution, with 0 among them, scaled to ±1.
pub const VALUES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Blocks whose largest absolute value is smaller are scaled as if it were this one.
const MIN_ABSMAX: f32 = 1e-38;

/// Quantises values to codes and a scale for each block, its largest absolute value.
///
/// The last block may be shorter. A byte holds two codes, the first one in its high half; the code of 0 follows an odd number
/// of values.
///
/// # Shapes
///
/// `codes`: ⌈n / 2⌉; `absmax`: ⌈n / `block_size`⌉, with an even `block_size`.
///
/// # Numerics
///
/// Float32. A value between two codes gets the nearer one, and the lower one in the middle of both. In a last, shorter block
/// values are divided by the scale, in others multiplied by its reciprocal, as in bitsandbytes.
pub fn quantize(values: &[f32], block_size: usize, codes: &mut [u8], absmax: &mut [f32]) {
    let bounds = middles();
    let blocks = values.chunks(block_size).zip(codes.chunks_mut(block_size / 2)).zip(absmax);
    for ((values, codes), absmax) in blocks {
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if values.len() == block_size {
            *absmax = largest;
            let scale = 1.0 / largest.max(MIN_ABSMAX);
            encode(values, &bounds, codes, |value| value * scale);
        } else {
            *absmax = largest.max(MIN_ABSMAX);
            let scale = *absmax;
            encode(values, &bounds, codes, |value| value / scale);
        }
    }
}

/// Returns whether all values are finite numbers.
#[must_use]
pub fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

/// The middles between neighbouring values.
fn middles() -> [f32; 15] {
    std::array::from_fn(|code| f32::midpoint(VALUES[code], VALUES[code + 1]))
}

fn encode(values: &[f32], bounds: &[f32; 15], codes: &mut [u8], scaled: impl Fn(f32) -> f32) {
    let code = |value: f32| {
        let value = scaled(value).clamp(-1.0, 1.0);
        bounds.iter().map(|bound| u8::from(*bound < value)).sum::<u8>()
    };
    let (pairs, last) = values.as_chunks::<2>();
    for (byte, [even, odd]) in codes.iter_mut().zip(pairs) {
        *byte = code(*even) << 4 | code(*odd);
    }
    if let ([value], Some(byte)) = (last, codes.last_mut()) {
        *byte = code(*value) << 4 | code(0.0);
    }
}

/// Writes what codes stand for: a value of [`VALUES`] times the scale of its block.
///
/// # Shapes
///
/// `codes`: ⌈n / 2⌉; `scales`: ⌈n / `block_size`⌉, with an even `block_size`; `values`: n.
///
/// # Numerics
///
/// The product is a float32.
pub fn dequantize(codes: &[u8], scales: &[f32], block_size: usize, values: &mut [f32]) {
    write(codes, scales, block_size, values);
}

/// Does the same as [`dequantize`], and rounds each product once.
pub fn dequantize_to_bf16(codes: &[u8], scales: &[f32], block_size: usize, values: &mut [Bf16]) {
    write(codes, scales, block_size, values);
}

/// Not public: a generic function would be compiled in the crate that calls it, and as that is.
fn write<T: Element>(codes: &[u8], scales: &[f32], block_size: usize, values: &mut [T]) {
    let blocks = codes.chunks(block_size / 2).zip(scales).zip(values.chunks_mut(block_size));
    for ((codes, scale), values) in blocks {
        for (values, codes) in values.chunks_mut(2 * BYTES_AT_ONCE).zip(codes.chunks(BYTES_AT_ONCE)) {
            if let (Ok(values), Ok(codes)) = (<&mut [T; 2 * BYTES_AT_ONCE]>::try_from(&mut *values), codes.try_into()) {
                decode(codes, *scale, values);
                continue;
            }
            let mut padded = [0; BYTES_AT_ONCE];
            padded[..codes.len()].copy_from_slice(codes);
            let mut decoded = [T::rounded(0.0); 2 * BYTES_AT_ONCE];
            decode(&padded, *scale, &mut decoded);
            values.copy_from_slice(&decoded[..values.len()]);
        }
    }
}

/// Bytes whose values are multiplied and rounded together.
const BYTES_AT_ONCE: usize = 8;

/// The two values of each byte.
const PAIRS: [[f32; 2]; 256] = {
    let mut pairs = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [VALUES[byte >> 4], VALUES[byte & 15]];
        byte += 1;
    }
    pairs
};

fn decode<T: Element>(codes: &[u8; BYTES_AT_ONCE], scale: f32, values: &mut [T; 2 * BYTES_AT_ONCE]) {
    let mut unscaled = [0.0; 2 * BYTES_AT_ONCE];
    for (pair, code) in unscaled.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *pair = PAIRS[usize::from(*code)];
    }
    for (value, unscaled) in values.iter_mut().zip(&unscaled) {
        *value = T::rounded(unscaled * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 64;

    fn round_trip(values: &[f32]) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
        let mut codes = vec![0; values.len().div_ceil(2)];
        let mut absmax = vec![0.0; values.len().div_ceil(BLOCK)];
        quantize(values, BLOCK, &mut codes, &mut absmax);
        let mut found = vec![0.0; values.len()];
        dequantize(&codes, &absmax, BLOCK, &mut found);
        (codes, absmax, found)
    }

    #[test]
    fn values_of_the_code_are_kept() {
        for scale in [1.0, 0.25, 8.0] {
            let values: Vec<f32> = (0..2 * BLOCK).map(|index| VALUES[(index * 7 + 15) % 16] * scale).collect();
            let (codes, absmax, found) = round_trip(&values);
            assert_eq!((codes[0], absmax[0], found), (15 << 4 | 6, scale, values));
        }
    }

    #[test]
    fn every_value_gets_the_nearest_code() {
        let values: Vec<f32> = (0..10 * BLOCK).map(|index| (index as f32 * 0.37).sin() * 0.3).collect();
        let (_, absmax, found) = round_trip(&values);
        for ((block, found), absmax) in values.chunks(BLOCK).zip(found.chunks(BLOCK)).zip(absmax) {
            assert_eq!(absmax, block.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())));
            for (value, found) in block.iter().zip(found) {
                let nearest = VALUES.iter().map(|code| (code * absmax - value).abs()).fold(f32::MAX, f32::min);
                // Two roundings of a value below 0.3.
                assert!((found - value).abs() <= nearest + 6e-8, "{value} became {found}");
            }
        }
    }

    #[test]
    fn zeros_and_odd_ends_have_codes() {
        let (codes, absmax, found) = round_trip(&[0.0; BLOCK]);
        assert_eq!((codes, absmax, found), (vec![0x77; BLOCK / 2], vec![0.0], vec![0.0; BLOCK]));
        let mut values = vec![0.5; BLOCK];
        values.extend([0.0, -2.0, 2.0]);
        let (codes, absmax, found) = round_trip(&values);
        assert_eq!(
            (&codes[32..], absmax.as_slice(), &found[64..]),
            (&[0x70, 0xF7][..], &[0.5, 2.0][..], &values[64..])
        );
        let (_, absmax, _) = round_trip(&[0.0]);
        assert_eq!(absmax, [MIN_ABSMAX]);
    }
}
