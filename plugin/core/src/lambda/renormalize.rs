//! λ′: λ over the dimensions that count for a prompt.

/// Returns λ′ `[M]` of a prompt: λ over the dimensions that count for it, those that rate at least two of its responses,
/// scaled to sum to 1 again; all 0 if none of them has weight.
///
/// # Equation
///
/// λ′_k = λ_k / Σ_{j counts} λ_j if k counts, else 0 (docs/method.md, "Missing ratings").
///
/// # Numerics
///
/// float64, rounded to float32: what the loss weighs with and what a λ-adapter sees are the same numbers.
pub(crate) fn renormalized(lambda: &[f64], counts: &[bool]) -> Vec<f32> {
    let counting = lambda.iter().zip(counts).map(|(weight, counts)| if *counts { *weight } else { 0.0 });
    let mass: f64 = counting.clone().sum();
    counting.map(|weight| if mass > 0.0 { (weight / mass) as f32 } else { 0.0 }).collect()
}
