//! The root-mean-square norm and its gradients; [`Value`](crate::Value) says what they compute.

use crate::element::Element;

/// Number of partial sums of a row, so that they do not wait for each other.
const LANES: usize = 8;

pub(crate) fn rms_norm<E: Element>(rows: &[E], weight: &[E], eps: f32, normed: &mut [E], scales: &mut [f32]) {
    let size = weight.len();
    for ((row, normed), scale) in rows.chunks_exact(size).zip(normed.chunks_exact_mut(size)).zip(scales) {
        *scale = 1.0 / (sum(row, row, |value, _| value * value) / size as f32 + eps).sqrt();
        for ((normed, value), weight) in normed.iter_mut().zip(row).zip(weight) {
            *normed = E::rounded(E::rounded(value.wide() * *scale).wide() * weight.wide());
        }
    }
}

pub(crate) fn row_grads<E: Element>(rows: &[E], weight: &[E], scales: &[f32], grads: &[E], row_grads: &mut [E]) {
    let size = weight.len();
    let rows = rows.chunks_exact(size).zip(scales).zip(grads.chunks_exact(size));
    // The weighted gradients of a row, which both passes over it need.
    let mut weighted = vec![0.0_f32; size];
    for (((row, scale), grads), row_grads) in rows.zip(row_grads.chunks_exact_mut(size)) {
        for ((weighted, grad), weight) in weighted.iter_mut().zip(grads).zip(weight) {
            *weighted = grad.wide() * weight.wide();
        }
        let along = scale.powi(3) / size as f32 * sum(row, &weighted, |value, weighted| value * weighted);
        for ((row_grad, weighted), value) in row_grads.iter_mut().zip(&weighted).zip(row) {
            *row_grad = E::rounded(scale * weighted - along * value.wide());
        }
    }
}

pub(crate) fn weight_grad<E: Element>(rows: &[E], scales: &[f32], grads: &[E], sums: &mut [f32]) {
    let size = sums.len();
    for ((row, scale), grads) in rows.chunks_exact(size).zip(scales).zip(grads.chunks_exact(size)) {
        for ((sum, value), grad) in sums.iter_mut().zip(row).zip(grads) {
            *sum += grad.wide() * E::rounded(value.wide() * scale).wide();
        }
    }
}

/// Adds up `term` of each pair of values.
fn sum<L: Element, R: Element>(left: &[L], right: &[R], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left_parts, right_parts) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let rest = left_parts.remainder().iter().zip(right_parts.remainder());
    let rest: f32 = rest.map(|(left, right)| term(left.wide(), right.wide())).sum();
    for (left, right) in left_parts.zip(right_parts) {
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += term(left.wide(), right.wide());
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 11;
    const EPS: f32 = 1e-3;

    fn rows() -> Vec<f32> {
        (1..=2 * SIZE as i32).map(|value| (value as f32 * 0.7).sin()).collect()
    }

    fn weight() -> Vec<f32> {
        (1..=SIZE).map(|value| 1.0 / value as f32).collect()
    }

    /// The norm of one row in float64.
    fn exact(row: &[f64]) -> Vec<f64> {
        let mean = row.iter().map(|value| value.powi(2)).sum::<f64>() / SIZE as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        row.iter().zip(weight()).map(|(value, weight)| value * scale * f64::from(weight)).collect()
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().copied().map(f64::from).collect()
    }

    #[test]
    fn rows_are_normed_one_by_one() {
        let (rows, mut normed, mut scales) = (rows(), vec![0.0; 2 * SIZE], [0.0; 2]);
        rms_norm(&rows, &weight(), EPS, &mut normed, &mut scales);
        for (row, normed) in rows.chunks(SIZE).zip(normed.chunks(SIZE)) {
            for (found, expected) in normed.iter().zip(exact(&wide(row))) {
                // Some ten roundings of values of about 1.
                assert!((f64::from(*found) - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn gradients_are_differences() {
        let (rows, grads) = (rows(), (0..2 * SIZE).map(|at| (at as f32).cos()).collect::<Vec<f32>>());
        let (mut normed, mut scales) = (vec![0.0; 2 * SIZE], [0.0; 2]);
        rms_norm(&rows, &weight(), EPS, &mut normed, &mut scales);
        let mut found = vec![0.0; 2 * SIZE];
        row_grads(&rows, &weight(), &scales, &grads, &mut found);
        // Σ g ⊙ norm(x) of the row of a value, which moves by a step.
        let objective = |at: usize, step: f64| -> f64 {
            let first = at / SIZE * SIZE;
            let mut row = wide(&rows[first..first + SIZE]);
            row[at - first] += step;
            exact(&row).iter().zip(&grads[first..]).map(|(normed, grad)| normed * f64::from(*grad)).sum()
        };
        for (at, found) in found.iter().enumerate() {
            let expected = (objective(at, 1e-5) - objective(at, -1e-5)) / 2e-5;
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{at}: {found}, {expected}");
        }
        let mut sums = vec![0.0; SIZE];
        weight_grad(&rows, &scales, &grads, &mut sums);
        for (at, sum) in sums.iter().enumerate() {
            let of_row = |row: usize| f64::from(grads[row * SIZE + at] * normed[row * SIZE + at] / weight()[at]);
            assert!((f64::from(*sum) - of_row(0) - of_row(1)).abs() < 1e-5);
        }
    }
}
