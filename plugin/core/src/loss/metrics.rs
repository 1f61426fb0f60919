//! Accuracies and margins of rewards against targets.

/// Mixed targets that differ by less than this tie: they are float32 sums, in which equal ratings need not give equal
/// bits.
const TIE_TOLERANCE: f64 = 1e-6;

/// Returns the share of the responses with the highest reward that are among the best by target; ties share the credit.
pub(super) fn accuracy(rewards: &[f64], targets: &[f64]) -> f64 {
    let best: Vec<f64> = best_by_target(targets).iter().map(|best| f64::from(u8::from(*best))).collect();
    mean_where(&best, &within(rewards, 0.0))
}

/// Returns the reward of the best response by target minus that of the worst; tied ones have their mean reward.
pub(super) fn margin(rewards: &[f64], targets: &[f64]) -> f64 {
    let negated: Vec<f64> = targets.iter().map(|target| -target).collect();
    mean_where(rewards, &best_by_target(targets)) - mean_where(rewards, &best_by_target(&negated))
}

/// Returns which responses have the highest target.
pub(super) fn best_by_target(targets: &[f64]) -> Vec<bool> {
    within(targets, TIE_TOLERANCE)
}

/// Returns which values are at most `tolerance` below the highest.
fn within(values: &[f64], tolerance: f64) -> Vec<bool> {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().map(|value| *value >= max - tolerance).collect()
}

/// Returns the mean of the chosen values; NaN if none is chosen, which happens only if rewards are NaN.
fn mean_where(values: &[f64], chosen: &[bool]) -> f64 {
    let kept = values.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(value, _)| *value);
    kept.clone().sum::<f64>() / kept.count() as f64
}
