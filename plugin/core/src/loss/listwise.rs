//! The listwise objective and its gradient in closed form, in float64, on one number per sequence.
//!
//! Prompts may differ in their number of responses, so the sums run over each prompt's own columns. They run in main
//! memory, since a batch has at most a few hundred of these numbers.

use std::ops::Range;

/// Added to the targets in paper-exact mode (Appendix B).
const PAPER_EPSILON: f64 = 1e-10;
/// Mixed targets that differ by less than this tie: they are float32 sums, in which equal ratings need not give equal
/// bits.
const TIE_TOLERANCE: f64 = 1e-6;

/// Inputs of the loss besides the rewards.
///
/// # Shapes
///
/// As in the ABI's `LossInputs`, row-major: B prompts, M dimensions, C responses.
#[derive(Debug)]
pub(super) struct Listwise {
    /// M.
    pub(super) num_dimensions: usize,
    /// `[B + 1]`
    pub(super) prompt_offsets: Vec<usize>,
    /// `[M, C]`
    pub(super) sequence_index: Vec<usize>,
    /// `[M, C]` p^(k); read only where `mask` is set.
    pub(super) pi_target: Vec<f64>,
    /// `[M, C]`
    pub(super) mask: Vec<bool>,
    /// `[B, M]` λ′
    pub(super) lambda: Vec<f64>,
    /// Add 1e-10 to the targets.
    pub(super) paper_exact: bool,
}

/// Losses, metrics and the gradient with respect to rewards, summed over prompts but not yet divided by the normaliser.
#[derive(Debug)]
pub(super) struct Evaluation {
    /// Σ over prompts of Σ_k λ'_k L^(k).
    pub(super) loss_sum: f64,
    /// Number of prompts with a dimension of positive weight.
    pub(super) num_contributing: u64,
    /// `[B]`
    pub(super) prompt_losses: Vec<f64>,
    /// `[B, M]`
    pub(super) dimension_losses: Vec<f64>,
    /// `[B, M]`
    pub(super) dimension_mask: Vec<bool>,
    /// `[B]`
    pub(super) accuracies: Vec<f64>,
    /// `[B, M]`
    pub(super) dimension_accuracies: Vec<f64>,
    /// `[B]`
    pub(super) margins: Vec<f64>,
    /// `[S]` ∂`loss_sum`/∂r.
    pub(super) grad_rewards: Vec<f64>,
}

impl Listwise {
    /// B
    pub(super) fn num_prompts(&self) -> usize {
        self.prompt_offsets.len() - 1
    }

    /// C
    fn num_responses(&self) -> usize {
        self.prompt_offsets[self.num_prompts()]
    }

    /// Computes the loss (10) with its gradient (29) from rewards `[S]`.
    ///
    /// # Equation
    ///
    /// L = Σ_k λ'_k L^(k) for each prompt, with P^(k) = softmax of r over the responses S_k that dimension k rates,
    /// L^(k) = −Σ_{i ∈ S_k} t_i log P^(k)_i, and ∂L^(k)/∂r_i = P^(k)_i Σ t − t_i, where t = p^(k) (+ 1e-10 in
    /// paper-exact mode). λ' is the λ of the batch, whose weight is on dimensions that rate at least two responses.
    pub(super) fn evaluate(&self, rewards: &[f64]) -> Evaluation {
        let (b, m) = (self.num_prompts(), self.num_dimensions);
        let mut out = Evaluation {
            loss_sum: 0.0,
            num_contributing: 0,
            prompt_losses: vec![0.0; b],
            dimension_losses: vec![0.0; b * m],
            dimension_mask: vec![false; b * m],
            accuracies: vec![0.0; b],
            dimension_accuracies: vec![0.0; b * m],
            margins: vec![0.0; b],
            grad_rewards: vec![0.0; rewards.len()],
        };
        for prompt in 0..b {
            let lambda = self.lambda_of(prompt);
            for (k, weight) in lambda.iter().enumerate() {
                self.evaluate_dimension(prompt, k, *weight, rewards, &mut out);
            }
            if lambda.iter().any(|weight| *weight > 0.0) {
                out.num_contributing += 1;
                out.loss_sum += out.prompt_losses[prompt];
                (out.accuracies[prompt], out.margins[prompt]) = self.mixed_metrics(prompt, lambda, rewards);
            }
        }
        out
    }

    /// Returns S_k: the entries of `[M, C]` for the responses of a prompt that a dimension rates.
    fn rated(&self, prompt: usize, dimension: usize) -> impl Iterator<Item = usize> + Clone {
        let row = dimension * self.num_responses();
        self.columns(prompt).map(move |column| row + column).filter(|at| self.mask[*at])
    }

    fn columns(&self, prompt: usize) -> Range<usize> {
        self.prompt_offsets[prompt]..self.prompt_offsets[prompt + 1]
    }

    /// Whether a dimension rates at least two of a prompt's responses.
    pub(super) fn counts(&self, prompt: usize, dimension: usize) -> bool {
        self.rated(prompt, dimension).nth(1).is_some()
    }

    /// Returns `[M]` λ′ of a prompt.
    pub(super) fn lambda_of(&self, prompt: usize) -> &[f64] {
        &self.lambda[prompt * self.num_dimensions..][..self.num_dimensions]
    }

    fn evaluate_dimension(&self, prompt: usize, k: usize, weight: f64, rewards: &[f64], out: &mut Evaluation) {
        if !self.counts(prompt, k) {
            return;
        }
        let epsilon = if self.paper_exact { PAPER_EPSILON } else { 0.0 };
        let rated: Vec<usize> = self.rated(prompt, k).collect();
        let targets: Vec<f64> = rated.iter().map(|at| self.pi_target[*at] + epsilon).collect();
        let rated_rewards: Vec<f64> = rated.iter().map(|at| rewards[self.sequence_index[*at]]).collect();

        let log_policy = log_softmax(&rated_rewards);
        let loss: f64 = targets.iter().zip(&log_policy).map(|(t, log_p)| -t * log_p).sum(); // (8), (20)
        let mass: f64 = targets.iter().sum();
        for ((at, t), log_p) in rated.iter().zip(&targets).zip(&log_policy) {
            // A weight of 0 times an infinite reward must not make the gradient of the other dimensions NaN.
            if weight > 0.0 {
                out.grad_rewards[self.sequence_index[*at]] += weight * (log_p.exp() * mass - t); // (29)
            }
        }
        let cell = prompt * self.num_dimensions + k;
        out.dimension_mask[cell] = true;
        out.dimension_losses[cell] = loss;
        out.dimension_accuracies[cell] = accuracy(&rated_rewards, &targets);
        if weight > 0.0 {
            out.prompt_losses[prompt] += weight * loss; // (10)
        }
    }

    /// Returns accuracy and margin under the mixed target p^λ' (14), over the responses rated by a dimension that has
    /// weight.
    fn mixed_metrics(&self, prompt: usize, lambda: &[f64], rewards: &[f64]) -> (f64, f64) {
        let (mut judged, mut mixed) = (Vec::new(), Vec::new());
        for column in self.columns(prompt) {
            let of_dimension = |k: usize| k * self.num_responses() + column;
            let raters = (0..self.num_dimensions).filter(|k| lambda[*k] > 0.0 && self.mask[of_dimension(*k)]);
            if raters.clone().next().is_some() {
                mixed.push(raters.map(|k| lambda[k] * self.pi_target[of_dimension(k)]).sum());
                // In the expanded layout the sequences of a response are copies, so the first will do.
                judged.push(rewards[self.sequence_index[column]]);
            }
        }
        let best = mean_where(&judged, &best_of(&mixed, TIE_TOLERANCE));
        let negated: Vec<f64> = mixed.iter().map(|p| -p).collect();
        let worst = mean_where(&judged, &best_of(&negated, TIE_TOLERANCE));
        (accuracy(&judged, &mixed), best - worst)
    }
}

/// log P_θ (7), (19).
fn log_softmax(rewards: &[f64]) -> Vec<f64> {
    let max = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum_exp = max + rewards.iter().map(|r| (r - max).exp()).sum::<f64>().ln();
    rewards.iter().map(|r| r - log_sum_exp).collect()
}

/// Returns the share of the responses with the highest reward that are among the best by target; ties share the credit.
fn accuracy(rewards: &[f64], targets: &[f64]) -> f64 {
    let best: Vec<f64> = best_of(targets, TIE_TOLERANCE).iter().map(|best| f64::from(u8::from(*best))).collect();
    mean_where(&best, &best_of(rewards, 0.0))
}

fn best_of(values: &[f64], tolerance: f64) -> Vec<bool> {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    values.iter().map(|value| *value >= max - tolerance).collect()
}

/// Returns the mean of the chosen values; NaN if none is chosen, which happens only if rewards are NaN.
fn mean_where(values: &[f64], chosen: &[bool]) -> f64 {
    let kept = values.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(value, _)| *value);
    kept.clone().sum::<f64>() / kept.count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One prompt of three responses, two dimensions that disagree.
    fn problem(lambda: [f64; 2], mask: [bool; 6]) -> Listwise {
        Listwise {
            num_dimensions: 2,
            prompt_offsets: vec![0, 3],
            sequence_index: vec![0, 1, 2, 0, 1, 2],
            pi_target: vec![0.7, 0.2, 0.1, 0.1, 0.1, 0.8],
            mask: mask.to_vec(),
            lambda: lambda.to_vec(),
            paper_exact: false,
        }
    }

    #[test]
    fn the_mixture_of_losses_is_the_loss_of_the_mixture() {
        let rewards = [0.3, -1.2, 0.8];
        let out = problem([0.25, 0.75], [true; 6]).evaluate(&rewards);
        let log_policy = log_softmax(&rewards);
        let mixed: Vec<f64> = (0..3).map(|i| 0.25 * [0.7, 0.2, 0.1][i] + 0.75 * [0.1, 0.1, 0.8][i]).collect();
        let loss: f64 = mixed.iter().zip(&log_policy).map(|(p, log_p)| -p * log_p).sum(); // (15)
        assert!((out.loss_sum - loss).abs() < 1e-12 && out.num_contributing == 1);
        for i in 0..3 {
            assert!((out.grad_rewards[i] - (log_policy[i].exp() - mixed[i])).abs() < 1e-12); // (29)
        }
    }

    #[test]
    fn a_dimension_with_one_rating_gives_its_weight_to_the_others() {
        let rewards = [0.3, -1.2, 0.8];
        let renormalized = crate::lambda::renormalized(&[0.25, 0.75], &[true, false]);
        let lambda = [renormalized[0].into(), renormalized[1].into()];
        let masked = problem(lambda, [true, true, true, false, false, true]).evaluate(&rewards);
        let alone = problem([1.0, 0.0], [true; 6]).evaluate(&rewards);
        assert_eq!(masked.loss_sum, alone.loss_sum);
        assert_eq!(masked.grad_rewards, alone.grad_rewards);
        assert_eq!((masked.dimension_mask, alone.dimension_mask), (vec![true, false], vec![true, true]));
    }

    #[test]
    fn unrated_responses_are_on_neither_side() {
        let out = problem([1.0, 0.0], [true, true, false, true, true, true]).evaluate(&[0.5, 0.1, 9.0]);
        // The unrated third response has the highest reward, but there is nothing to judge it by.
        assert_eq!((out.accuracies[0], out.dimension_accuracies[0], out.grad_rewards[2]), (1.0, 1.0, 0.0));
        assert!((out.margins[0] - 0.4).abs() < 1e-12);
    }

    #[test]
    fn ties_share_the_credit() {
        let start = problem([1.0, 0.0], [true; 6]).evaluate(&[0.0; 3]);
        assert_eq!((start.accuracies[0], start.margins[0]), (1.0 / 3.0, 0.0));
        assert_eq!(start.dimension_accuracies, [1.0 / 3.0, 1.0 / 3.0]);
        // The second dimension's two worst responses tie: their mean reward counts.
        let out = problem([0.0, 1.0], [true; 6]).evaluate(&[1.0, 2.0, 4.0]);
        assert_eq!((out.accuracies[0], out.margins[0]), (1.0, 2.5));
        assert_eq!(out.dimension_accuracies, [0.0, 1.0]);
    }

    #[test]
    fn nan_and_infinity_are_not_hidden() {
        for bad in [f64::NAN, f64::INFINITY] {
            let out = problem([0.5, 0.5], [true; 6]).evaluate(&[bad, 0.0, 0.0]);
            assert!(out.loss_sum.is_nan() && out.grad_rewards.iter().any(|g| g.is_nan()));
        }
    }
}
