//! Random numbers that are the same on all devices and independent of libtorch's generator.

use std::f64::consts::TAU;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tch::Tensor;

/// A random number generator: one stream of a seed.
pub(crate) struct Random(ChaCha12Rng);

impl Random {
    /// Creates a generator. The streams of a seed are independent of each other.
    pub(crate) fn new(seed: u64, stream: u64) -> Random {
        let mut generator = ChaCha12Rng::seed_from_u64(seed);
        generator.set_stream(stream);
        Random(generator)
    }

    /// Draws a number uniformly from [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws float32 values uniformly within ±`bound`.
    pub(crate) fn uniform(&mut self, shape: &[i64], bound: f64) -> Result<Tensor, tch::TchError> {
        let mut values = room(shape)?;
        let numel = shape.iter().product::<i64>() as usize;
        values.extend((0..numel).map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32));
        Tensor::f_from_slice(&values)?.f_view(shape)
    }

    /// Draws normal float32 values with mean 0, by the Box–Muller transform.
    pub(crate) fn normal(&mut self, shape: &[i64], standard_deviation: f64) -> Result<Tensor, tch::TchError> {
        let numel = shape.iter().product::<i64>() as usize;
        let mut values = room(shape)?;
        while values.len() < numel {
            // 1 − u is never 0, so the logarithm is finite.
            let radius = standard_deviation * (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            let (sin, cos) = (TAU * self.unit()).sin_cos();
            values.extend([(radius * cos) as f32, (radius * sin) as f32]);
        }
        Tensor::f_from_slice(&values[..numel])?.f_view(shape)
    }
}

/// Returns an empty list with room for the values of a tensor and one more, or the error that libtorch would return if there is
/// too little memory.
fn room(shape: &[i64]) -> Result<Vec<f32>, tch::TchError> {
    let mut values = Vec::new();
    let numel = shape.iter().product::<i64>() as usize;
    let reserved = values.try_reserve_exact(numel + 1);
    reserved.map_err(|_| tch::TchError::Torch(format!("not enough memory for random values of shape {shape:?}")))?;
    Ok(values)
}

/// The increment of SplitMix64's state: 2⁶⁴ divided by the golden ratio.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns a separate seed for each `index`: output number `index` of SplitMix64, seeded with `seed`.
pub(super) fn seed_at(seed: u64, index: u64) -> u64 {
    split_mix64(seed.wrapping_add(index.wrapping_mul(INCREMENT)))
}

/// Returns the output of the generator SplitMix64 in this state (Steele, Lea and Flood 2014).
pub(crate) fn split_mix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(INCREMENT);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_their_moments() {
        let values = Random::new(1, 2).normal(&[301, 333], 0.02);
        let Ok(values) = values else { panic!("{values:?}") };
        assert!(values.mean(None).double_value(&[]).abs() < 3e-4);
        assert!((values.std(false).double_value(&[]) - 0.02).abs() < 2e-4);
    }

    #[test]
    fn more_values_than_fit_into_memory_are_an_error() {
        for shape in [[1 << 30, 1 << 30], [1 << 31, 1 << 31]] {
            for values in [Random::new(1, 2).normal(&shape, 1.0), Random::new(1, 2).uniform(&shape, 1.0)] {
                let Err(error) = values else { panic!("{shape:?}") };
                assert!(error.to_string().contains("not enough memory for random values of shape"), "{error}");
            }
        }
    }

    #[test]
    fn seeds_are_those_of_split_mix64() {
        // The first outputs of Vigna's splitmix64.c, seeded with 1234567.
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([0, 1, 2].map(|index| seed_at(1_234_567, index)), expected);
    }

    #[test]
    fn streams_differ_and_repeat() {
        let draw = |seed, stream| Random::new(seed, stream).unit();
        assert_eq!(draw(1, 2).to_bits(), draw(1, 2).to_bits());
        assert_ne!(draw(1, 2).to_bits(), draw(1, 3).to_bits());
        assert_ne!(draw(1, 2).to_bits(), draw(2, 2).to_bits());
        assert!((0..1000).all(|stream| (0.0..1.0).contains(&draw(7, stream))));
    }
}
