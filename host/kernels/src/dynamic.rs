//! bitsandbytes' dynamic 8-bit code, in which NF4's scales are quantised once more.
//!
//! A code has a sign, a decimal exponent of −6 to 0, and a fraction between 0.1 and 1 whose resolution doubles with each step of
//! the exponent (arXiv 1511.04561).

use std::sync::LazyLock;

/// Codes, in the order of what they stand for.
pub const NUM_CODES: usize = 256;
/// Numbers of equal steps from −1 to 1 that a code is looked up by.
const NUM_STEPS: usize = 1 << 16;
const LARGEST_STEP: f32 = (NUM_STEPS - 1) as f32;
const NUM_EXPONENTS: i32 = 7;

static VALUES: LazyLock<[f32; NUM_CODES]> = LazyLock::new(make_values);
static CODES: LazyLock<Vec<u8>> = LazyLock::new(|| make_codes(values()));

/// Returns what the codes stand for.
pub fn values() -> &'static [f32; NUM_CODES] {
    &VALUES
}

fn make_values() -> [f32; NUM_CODES] {
    let mut values = [0.0; NUM_CODES];
    let (mut at, last) = (0, NUM_CODES - 1);
    for exponent in 0..NUM_EXPONENTS {
        let num_fractions = 1_usize << exponent;
        let power = 10_f64.powi(exponent - (NUM_EXPONENTS - 1)) as f32;
        for fraction in 0..num_fractions {
            let bound = |index| linspace(index, num_fractions);
            let value = power * f32::midpoint(bound(fraction), bound(fraction + 1));
            (values[at], values[at + 1]) = (value, -value);
            at += 2;
        }
    }
    values[last] = 1.0;
    values.sort_unstable_by(f32::total_cmp);
    values
}

/// Returns number `index` of `num_steps` + 1 equally spaced numbers from 0.1 to 1, with the roundings of `torch.linspace`.
fn linspace(index: usize, num_steps: usize) -> f32 {
    let (first, last) = (0.1_f32, 1.0_f32);
    let step = (last - first) / num_steps as f32;
    if index < num_steps.div_ceil(2) {
        step.mul_add(index as f32, first)
    } else {
        (-step).mul_add((num_steps - index) as f32, last)
    }
}

/// Returns the code of each step from −1 to 1.
fn make_codes(values: &[f32; NUM_CODES]) -> Vec<u8> {
    let mut code = 0;
    let nearest = |step: usize| {
        let value = -1.0 + (2.0 * step as f32) / LARGEST_STEP;
        while code < NUM_CODES - 1 && f32::midpoint(values[code], values[code + 1]) < value {
            code += 1;
        }
        code as u8
    };
    (0..NUM_STEPS).map(nearest).collect()
}

/// Quantises values to codes and a scale for each block, its largest absolute value. A block of zeros has the code 0.
///
/// # Shapes
///
/// `codes`: n; `absmax`: ⌈n / `block_size`⌉.
///
/// # Numerics
///
/// Float32. A scaled value is rounded to one of 65,536 steps before its code is looked up, as in bitsandbytes.
pub fn quantize(values: &[f32], block_size: usize, codes: &mut [u8], absmax: &mut [f32]) {
    for ((values, codes), absmax) in values.chunks(block_size).zip(codes.chunks_mut(block_size)).zip(absmax) {
        *absmax = values.iter().fold(0.0, |largest, value| largest.max(value.abs()));
        if *absmax == 0.0 {
            codes.fill(0);
            continue;
        }
        let scale = 1.0 / *absmax;
        for (code, value) in codes.iter_mut().zip(values) {
            let value = (value * scale).clamp(-1.0, 1.0);
            *code = CODES[((value + 1.0) * 0.5 * LARGEST_STEP + 0.5) as usize];
        }
    }
}

/// A part of quantised numbers.
#[derive(Clone, Copy, Debug)]
pub struct Quantized<'a> {
    /// The codes of all numbers.
    pub codes: &'a [u8],
    /// What the codes stand for, [`NUM_CODES`] values.
    pub values: &'a [f32],
    /// The scales of all blocks.
    pub absmax: &'a [f32],
    /// Numbers in a block.
    pub block_size: usize,
    /// What is added to each.
    pub offset: f32,
}

impl Quantized<'_> {
    /// Writes the numbers from number `first` on.
    ///
    /// # Panics
    ///
    /// Panics if there are fewer.
    pub fn dequantize(&self, first: usize, numbers: &mut [f32]) {
        let codes = &self.codes[first..first + numbers.len()];
        for ((index, code), number) in (first..).zip(codes).zip(numbers) {
            *number = self.values[usize::from(*code)] * self.absmax[index / self.block_size] + self.offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_sorted_and_symmetric_but_for_the_ends() {
        let values = values();
        assert!(values.is_sorted_by(|left, right| left < right));
        assert_eq!((values[127], values[255]), (0.0, 1.0));
        for (index, value) in values[..127].iter().enumerate() {
            assert_eq!(*value, -values[254 - index]);
        }
    }

    #[test]
    fn what_is_quantised_comes_back_to_the_resolution_of_the_code() {
        let numbers: Vec<f32> = (0..600).map(|index| (index as f32 * 0.11).cos() * 0.02).collect();
        let (mut codes, mut absmax) = (vec![0; 600], vec![0.0; 3]);
        quantize(&numbers, 256, &mut codes, &mut absmax);
        let quantized = Quantized { codes: &codes, values: values(), absmax: &absmax, block_size: 256, offset: 0.0 };
        let mut found = vec![0.0; 600];
        quantized.dequantize(0, &mut found);
        for (found, number) in found.iter().zip(&numbers) {
            // Steps of the largest exponent are 0.9 / 64 wide.
            assert!((found - number).abs() < 0.02 * 0.5 * 0.9 / 64.0 + 1e-6, "{number} became {found}");
        }
        let mut part = vec![0.0; 100];
        quantized.dequantize(300, &mut part);
        assert_eq!(part, found[300..400]);
        let (mut codes, mut absmax) = (vec![9; 2], vec![1.0]);
        quantize(&[0.0, 0.0], 256, &mut codes, &mut absmax);
        assert_eq!((codes, absmax), (vec![0, 0], vec![0.0]));
    }
}
