//! Length control: how often answers would win if both sides were equally long.

/// Weight of the penalty on the coefficients: AlpacaEval's for a single fit (C = 100 in scikit-learn), which does not move a
/// rate of dozens of prompts by a thousandth, and bounds the coefficients where one side always wins.
const RIDGE: f64 = 0.01;

/// Newton's steps, at most; some ten are needed.
const MAX_STEPS: usize = 100;

/// Returns the win rate that a logistic regression predicts for answers of equal length.
///
/// `outcomes`: 1 for a win, ½ for a tie, 0 for a loss; `excess`: the length of each answer minus that of the one it is
/// compared with.
///
/// # Equation
///
/// As in AlpacaEval 2 (arXiv 2404.04475, section 3), logit P(win) = θ + φ tanh(Δ / σ), with σ the sample standard deviation
/// of the excess Δ; the rate is 1 / (1 + e^−θ). Its third term, the difficulty of each instruction, is left out: it is
/// fitted over many models. The coefficients minimise the sum of the cross-entropies plus 0.005 (θ² + φ²); AlpacaEval
/// penalises |θ| + |φ| by a weight that it cross-validates.
///
/// Where all lengths are equal, it is the rate itself. None if all Δ are equal but not 0, because length and win then cannot
/// be told apart.
pub fn length_controlled(outcomes: &[f64], excess: &[f64]) -> Option<f64> {
    let count = outcomes.len() as f64;
    if outcomes.is_empty() {
        return None;
    }
    if excess.iter().all(|&excess| excess == 0.0) {
        return Some(outcomes.iter().sum::<f64>() / count);
    }
    if excess.iter().all(|&each| each == excess[0]) {
        return None;
    }
    let mean = excess.iter().sum::<f64>() / count;
    let variance = excess.iter().map(|excess| (excess - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let points: Vec<(f64, f64)> =
        outcomes.iter().zip(excess).map(|(&outcome, excess)| (outcome, (excess / variance.sqrt()).tanh())).collect();
    fit(&points).map(|[theta, _]| sigmoid(theta))
}

/// Fits θ and φ to pairs (outcome, feature) by Newton's method; None if it does not converge.
fn fit(points: &[(f64, f64)]) -> Option<[f64; 2]> {
    let mut at = [0.0, 0.0];
    for _ in 0..MAX_STEPS {
        let step = newton_step(points, at);
        // Half as far until the loss does not rise by more than rounding: it is convex, but a whole step may overshoot.
        let before = loss(points, at) * (1.0 + 1e-12);
        let to = |scale: f64| [at[0] - scale * step[0], at[1] - scale * step[1]];
        let scale = (0..50).map(|halvings| 0.5_f64.powi(halvings)).find(|&scale| loss(points, to(scale)) <= before)?;
        at = to(scale);
        if step[0].abs().max(step[1].abs()) < 1e-12 * (1.0 + at[0].abs().max(at[1].abs())) {
            return Some(at);
        }
    }
    None
}

/// Returns H⁻¹ g of the penalised loss.
fn newton_step(points: &[(f64, f64)], [theta, phi]: [f64; 2]) -> [f64; 2] {
    let mut gradient = [RIDGE * theta, RIDGE * phi];
    let (mut h11, mut h12, mut h22) = (RIDGE, 0.0, RIDGE);
    for &(outcome, feature) in points {
        let rate = sigmoid(theta + phi * feature);
        let (error, weight) = (rate - outcome, rate * (1.0 - rate));
        gradient[0] += error;
        gradient[1] += error * feature;
        h11 += weight;
        h12 += weight * feature;
        h22 += weight * feature * feature;
    }
    let determinant = h11 * h22 - h12 * h12;
    [(h22 * gradient[0] - h12 * gradient[1]) / determinant, (h11 * gradient[1] - h12 * gradient[0]) / determinant]
}

fn loss(points: &[(f64, f64)], [theta, phi]: [f64; 2]) -> f64 {
    let cross_entropy = |&(outcome, feature): &(f64, f64)| {
        let logit = theta + phi * feature;
        // log(1 + e^logit) − outcome · logit
        logit.max(0.0) + (-logit.abs()).exp().ln_1p() - outcome * logit
    };
    points.iter().map(cross_entropy).sum::<f64>() + 0.5 * RIDGE * (theta * theta + phi * phi)
}

fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn equal_lengths_leave_the_rate_as_it_is() {
        assert_eq!(length_controlled(&[1.0, 0.5, 0.0, 1.0], &[0.0; 4]), Some(0.625));
        assert_eq!(length_controlled(&[1.0, 0.0], &[3.0, 3.0]), None);
        assert_eq!(length_controlled(&[1.0], &[3.0]), None);
        assert_eq!(length_controlled(&[], &[]), None);
    }

    #[test]
    fn a_win_by_length_alone_is_taken_out() {
        // The longer answer wins three times out of four, whichever side's it is; the policy's is longer in 12 of 16.
        let wins = |count: usize, of: usize| (0..of).map(move |index| if index < count { 1.0 } else { 0.0 });
        let outcomes: Vec<f64> = wins(9, 12).chain(wins(1, 4)).collect();
        let excess: Vec<f64> = [[20.0; 4], [20.0; 4], [20.0; 4], [-20.0; 4]].concat();
        let found = length_controlled(&outcomes, &excess).unwrap();
        assert!((found - 0.5).abs() < 1e-3, "{found}, while the rate is 0.625");
    }

    #[test]
    fn one_side_that_always_wins_has_a_finite_fit() {
        let excess: Vec<f64> = (0..20).map(|index| f64::from(index) - 9.5).collect();
        let found = length_controlled(&[1.0; 20], &excess).unwrap();
        assert!(found > 0.99 && found < 1.0, "{found}");
        let lost = length_controlled(&[0.0; 20], &excess).unwrap();
        assert!((found + lost - 1.0).abs() < 1e-12, "{lost}");
    }

    #[test]
    fn the_fit_is_where_the_gradient_vanishes() {
        let points: Vec<(f64, f64)> =
            (0..40).map(|index| (f64::from(index * 7 % 3) / 2.0, f64::from(index * 11 % 17) / 8.0 - 1.0)).collect();
        let at = fit(&points).unwrap();
        let slope = |k: usize| {
            let mut moved = [at, at];
            moved[0][k] += 1e-5;
            moved[1][k] -= 1e-5;
            (loss(&points, moved[0]) - loss(&points, moved[1])) / 2e-5
        };
        assert!(slope(0).abs() < 1e-8 && slope(1).abs() < 1e-8, "{} {}", slope(0), slope(1));
    }
}
