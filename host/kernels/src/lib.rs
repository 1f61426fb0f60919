//! Loops over values: float32 rows for decoding a few tokens, and matrices in 4 bits.
//!
//! A crate of its own because it is compiled to run fast, and the program, which has no other hot loop, to build fast.

pub mod dynamic;
pub mod nf4;

/// Number of partial sums of a row, so that they do not wait for each other.
const LANES: usize = 8;

/// Normalises rows by their root mean square: x / √(mean x² + ε) · weight.
///
/// # Shapes
///
/// `rows` and `normed`: rows of the length of `weight`, one after another.
///
/// # Numerics
///
/// Float32; sums in eight parts.
///
/// # Panics
///
/// Panics if `weight` is empty.
pub fn rms_norm(rows: &[f32], weight: &[f32], eps: f32, normed: &mut [f32]) {
    let size = weight.len();
    for (row, normed) in rows.chunks_exact(size).zip(normed.chunks_exact_mut(size)) {
        let scale = 1.0 / (sum_of_squares(row) / size as f32 + eps).sqrt();
        for ((normed, value), weight) in normed.iter_mut().zip(row).zip(weight) {
            *normed = value * scale * weight;
        }
    }
}

fn sum_of_squares(row: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let parts = row.chunks_exact(LANES);
    let rest: f32 = parts.remainder().iter().map(|value| value * value).sum();
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value * value;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Rotates the halves of a head: x ⊙ cos + (x₂, x₁) ⊙ `signed_sin`.
///
/// # Shapes
///
/// All of the same even length.
///
/// # Panics
///
/// Panics if an argument is shorter than `head`.
pub fn rotate(head: &[f32], cos: &[f32], signed_sin: &[f32], rotated: &mut [f32]) {
    let half = head.len() / 2;
    let (first, second) = head.split_at(half);
    let (first_cos, second_cos) = cos.split_at(half);
    let (first_sin, second_sin) = signed_sin.split_at(half);
    let (first_rotated, second_rotated) = rotated.split_at_mut(half);
    turn(first, second, first_cos, first_sin, first_rotated);
    turn(second, first, second_cos, second_sin, second_rotated);
}

/// own ⊙ cos + other ⊙ sin.
fn turn(own: &[f32], other: &[f32], cos: &[f32], sin: &[f32], turned: &mut [f32]) {
    for ((((turned, own), other), cos), sin) in turned.iter_mut().zip(own).zip(other).zip(cos).zip(sin) {
        *turned = own * cos + other * sin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_normed_one_by_one() {
        let rows: Vec<f32> = (1..=22).map(|value| value as f32 / 7.0).collect();
        let weight: Vec<f32> = (1..=11).map(|value| 1.0 / value as f32).collect();
        let mut normed = vec![0.0; rows.len()];
        rms_norm(&rows, &weight, 1e-3, &mut normed);
        for (row, normed) in rows.chunks(11).zip(normed.chunks(11)) {
            let mean = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / 11.0;
            for ((value, weight), normed) in row.iter().zip(&weight).zip(normed) {
                let expected = f64::from(*value) / (mean + f64::from(1e-3_f32)).sqrt() * f64::from(*weight);
                // Some ten roundings of values of about 1.
                assert!((f64::from(*normed) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn halves_are_rotated() {
        let mut rotated = [0.0; 4];
        rotate(&[1.0, 2.0, 3.0, 4.0], &[0.0, 1.0, 0.0, 1.0], &[-1.0, 0.0, 1.0, 0.0], &mut rotated);
        assert_eq!(rotated, [-3.0, 2.0, 1.0, 4.0]);
    }
}
