//! The losses of a prompt's dimensions, mixed by λ′, and the gradient with respect to each sequence's log-prob.
//!
//! Prompts may differ in their number of responses, so the sums run over each prompt's own columns. They run in main
//! memory, since a batch has at most a few hundred of these numbers.

use ndarray::{Array1, Array2, Axis};

use super::inputs::LossOptions;
use super::metrics::{accuracy, best_by_target, margin};
use super::objectives::{PreferenceObjective, Responses};
use super::preferences::Preferences;

/// The log-probs of a batch's sequences; all fields are `[S]`.
#[derive(Debug)]
pub(super) struct Scores {
    /// s under the policy.
    pub(super) policy: Array1<f64>,
    /// s under the reference policy; 0 without one.
    pub(super) reference: Array1<f64>,
    /// ∂(mean over tokens)/∂s: 1 if s is a mean, 1 / number of tokens if it is a sum. None if nothing needs it.
    pub(super) mean_per_s: Option<Array1<f64>>,
}

/// Losses, metrics and the gradient, summed over prompts but not yet divided by the normaliser.
#[derive(Debug)]
pub(super) struct Evaluation {
    /// `[S]` r (17).
    pub(super) rewards: Array1<f64>,
    /// Σ over prompts of their losses.
    pub(super) loss_sum: f64,
    /// Number of prompts with a dimension of positive weight.
    pub(super) num_contributing: u64,
    /// `[B]` Σ_k λ'_k L^(k) + `sft_weight` · the negative log-likelihood of the best response.
    pub(super) prompt_losses: Array1<f64>,
    /// `[B, M]`
    pub(super) dimension_losses: Array2<f64>,
    /// `[B, M]`
    pub(super) dimension_mask: Array2<bool>,
    /// `[B]`
    pub(super) accuracies: Array1<f64>,
    /// `[B, M]`
    pub(super) dimension_accuracies: Array2<f64>,
    /// `[B]`
    pub(super) margins: Array1<f64>,
    /// `[B]` mean negative log-likelihood of the tokens of the best response under λ′; None without `mean_per_s`.
    pub(super) sft_losses: Option<Array1<f64>>,
    /// `[S]` ∂`loss_sum`/∂s.
    pub(super) grad: Array1<f64>,
}

impl Evaluation {
    fn zeros(num_prompts: usize, num_dimensions: usize, scores: &Scores, beta: f64) -> Self {
        let (prompts, cells) = (num_prompts, (num_prompts, num_dimensions));
        Self {
            rewards: beta * (&scores.policy - &scores.reference),
            loss_sum: 0.0,
            num_contributing: 0,
            prompt_losses: Array1::zeros(prompts),
            dimension_losses: Array2::zeros(cells),
            dimension_mask: Array2::from_elem(cells, false),
            accuracies: Array1::zeros(prompts),
            dimension_accuracies: Array2::zeros(cells),
            margins: Array1::zeros(prompts),
            sft_losses: scores.mean_per_s.as_ref().map(|_| Array1::zeros(prompts)),
            grad: Array1::zeros(scores.policy.len()),
        }
    }
}

/// Computes the loss with its gradient and metrics.
///
/// # Equation
///
/// L = Σ_k λ'_k L^(k) for each prompt (10), with L^(k) of the objective over the responses S_k that dimension k rates, and
/// λ′ the λ of the batch, whose weight is on dimensions that rate at least two responses; plus `sft_weight` · the negative
/// log-likelihood of the best response under λ′.
pub(super) fn evaluate(
    objective: PreferenceObjective,
    preferences: &Preferences,
    scores: &Scores,
    options: &LossOptions,
) -> Evaluation {
    let (num_prompts, num_dimensions) = (preferences.num_prompts(), preferences.num_dimensions());
    let mut out = Evaluation::zeros(num_prompts, num_dimensions, scores, options.beta);
    for (prompt, lambda) in preferences.lambda.rows().into_iter().enumerate() {
        for (k, weight) in lambda.iter().enumerate() {
            let rated = preferences.rated(prompt, k);
            if rated.len() < 2 {
                continue;
            }
            let sequences: Vec<usize> = rated.iter().map(|column| preferences.sequence_index[[k, *column]]).collect();
            let responses = Responses {
                policy: scores.policy.select(Axis(0), &sequences),
                reference: scores.reference.select(Axis(0), &sequences),
                targets: preferences.pi_target.row(k).select(Axis(0), &rated),
                ranks: preferences.ranks.row(k).select(Axis(0), &rated),
            };
            let term = objective(&responses, options);
            out.dimension_mask[[prompt, k]] = true;
            out.dimension_losses[[prompt, k]] = term.loss;
            let rewards: Vec<f64> = sequences.iter().map(|s| out.rewards[*s]).collect();
            out.dimension_accuracies[[prompt, k]] = accuracy(&rewards, &responses.targets.to_vec());
            // A weight of 0 times an infinite reward must not make the gradient of the other dimensions NaN.
            if *weight > 0.0 {
                out.prompt_losses[prompt] += weight * term.loss; // (10)
                sequences.iter().zip(term.grad).for_each(|(s, grad)| out.grad[*s] += weight * grad);
            }
        }
        if lambda.iter().any(|weight| *weight > 0.0) {
            out.num_contributing += 1;
            mixed(prompt, preferences, scores, options, &mut out);
            out.loss_sum += out.prompt_losses[prompt];
        }
    }
    out
}

/// Adds what depends on the mixed target p^λ' (14): accuracy, margin, and the likelihood of the best response. They are
/// over the responses rated by a dimension that has weight.
fn mixed(prompt: usize, preferences: &Preferences, scores: &Scores, options: &LossOptions, out: &mut Evaluation) {
    let lambda = preferences.lambda.row(prompt);
    let (mut sequences, mut targets) = (Vec::new(), Vec::new());
    for column in preferences.columns(prompt) {
        let raters = (0..lambda.len()).filter(|k| lambda[*k] > 0.0 && preferences.mask[[*k, column]]);
        if raters.clone().next().is_some() {
            targets.push(raters.map(|k| lambda[k] * preferences.pi_target[[k, column]]).sum());
            // In the expanded layout the sequences of a response are copies, so the first will do.
            sequences.push(preferences.sequence_index[[0, column]]);
        }
    }
    let rewards: Vec<f64> = sequences.iter().map(|s| out.rewards[*s]).collect();
    out.accuracies[prompt] = accuracy(&rewards, &targets);
    out.margins[prompt] = margin(&rewards, &targets);

    let (Some(mean_per_s), Some(sft_losses)) = (&scores.mean_per_s, &mut out.sft_losses) else { return };
    let best: Vec<usize> =
        sequences.iter().zip(best_by_target(&targets)).filter(|(_, best)| *best).map(|(s, _)| *s).collect();
    for s in &best {
        let share = mean_per_s[*s] / best.len() as f64;
        sft_losses[prompt] -= share * scores.policy[*s];
        // Unchanged to the last bit without a weight.
        out.grad[*s] -= options.sft_weight * share;
    }
    if options.sft_weight > 0.0 {
        out.prompt_losses[prompt] += options.sft_weight * sft_losses[prompt];
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use ndarray::{arr1, arr2};

    use super::super::objectives::preference_objective;
    use super::super::preferences::ranks_of;
    use super::*;
    use crate::Objective;

    /// One prompt of three responses, two dimensions that disagree.
    fn problem(lambda: [f64; 2], mask: [[bool; 3]; 2]) -> Preferences {
        let pi_target = arr2(&[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]);
        Preferences {
            prompt_offsets: vec![0, 3],
            sequence_index: arr2(&[[0, 1, 2]; 2]),
            ranks: ranks_of(&pi_target, &arr2(&mask), &[0, 3]),
            pi_target,
            mask: arr2(&mask),
            lambda: arr2(&[lambda]),
        }
    }

    fn options(objective: Objective, sft_weight: f64) -> LossOptions {
        LossOptions { objective, beta: 1.0, sft_weight, ..LossOptions::default() }
    }

    fn evaluated(preferences: &Preferences, rewards: [f64; 3], options: &LossOptions) -> Evaluation {
        let policy = arr1(&rewards);
        let scores = Scores {
            reference: Array1::zeros(3),
            mean_per_s: (options.sft_weight > 0.0).then(|| Array1::from_elem(3, 0.5)),
            policy,
        };
        evaluate(preference_objective(options.objective).unwrap(), preferences, &scores, options)
    }

    fn listwise(preferences: &Preferences, rewards: [f64; 3]) -> Evaluation {
        evaluated(preferences, rewards, &options(Objective::Listwise, 0.0))
    }

    #[test]
    fn the_mixture_of_losses_is_the_loss_of_the_mixture() {
        let rewards = [0.3, -1.2, 0.8];
        let out = listwise(&problem([0.25, 0.75], [[true; 3]; 2]), rewards);
        let log_sum_exp = rewards.iter().map(|reward: &f64| reward.exp()).sum::<f64>().ln();
        let log_policy = rewards.map(|reward| reward - log_sum_exp);
        let mixed: Vec<f64> = (0..3).map(|i| 0.25 * [0.7, 0.2, 0.1][i] + 0.75 * [0.1, 0.1, 0.8][i]).collect();
        let loss: f64 = mixed.iter().zip(&log_policy).map(|(p, log_p)| -p * log_p).sum(); // (15)
        assert!((out.loss_sum - loss).abs() < 1e-12 && out.num_contributing == 1);
        for i in 0..3 {
            assert!((out.grad[i] - (log_policy[i].exp() - mixed[i])).abs() < 1e-12); // (29)
        }
    }

    #[test]
    fn a_dimension_with_one_rating_gives_its_weight_to_the_others() {
        let rewards = [0.3, -1.2, 0.8];
        let renormalized = crate::lambda::renormalized(&[0.25, 0.75], &[true, false]);
        let lambda = [renormalized[0].into(), renormalized[1].into()];
        let masked = listwise(&problem(lambda, [[true; 3], [false, false, true]]), rewards);
        let alone = listwise(&problem([1.0, 0.0], [[true; 3]; 2]), rewards);
        assert_eq!(masked.loss_sum, alone.loss_sum);
        assert_eq!(masked.grad, alone.grad);
        assert_eq!((masked.dimension_mask, alone.dimension_mask), (arr2(&[[true, false]]), arr2(&[[true, true]])));
    }

    #[test]
    fn unrated_responses_are_on_neither_side() {
        let out = listwise(&problem([1.0, 0.0], [[true, true, false], [true; 3]]), [0.5, 0.1, 9.0]);
        // The unrated third response has the highest reward, but there is nothing to judge it by.
        assert_eq!((out.accuracies[0], out.dimension_accuracies[[0, 0]], out.grad[2]), (1.0, 1.0, 0.0));
        assert!((out.margins[0] - 0.4).abs() < 1e-12);
    }

    #[test]
    fn ties_share_the_credit() {
        let start = listwise(&problem([1.0, 0.0], [[true; 3]; 2]), [0.0; 3]);
        assert_eq!((start.accuracies[0], start.margins[0]), (1.0 / 3.0, 0.0));
        assert_eq!(start.dimension_accuracies, arr2(&[[1.0 / 3.0, 1.0 / 3.0]]));
        // The second dimension's two worst responses tie: their mean reward counts.
        let out = listwise(&problem([0.0, 1.0], [[true; 3]; 2]), [1.0, 2.0, 4.0]);
        assert_eq!((out.accuracies[0], out.margins[0]), (1.0, 2.5));
        assert_eq!(out.dimension_accuracies, arr2(&[[0.0, 1.0]]));
    }

    #[test]
    fn nan_and_infinity_are_not_hidden() {
        for bad in [f64::NAN, f64::INFINITY] {
            let out = listwise(&problem([0.5, 0.5], [[true; 3]; 2]), [bad, 0.0, 0.0]);
            assert!(out.loss_sum.is_nan() && out.grad.iter().any(|g| g.is_nan()));
        }
    }

    #[test]
    fn the_best_response_under_lambda_gets_the_sft_term() {
        let rewards = [0.3, -1.2, 0.8];
        for (lambda, best) in [([1.0, 0.0], 0), ([0.0, 1.0], 2)] {
            let problem = problem(lambda, [[true; 3]; 2]);
            let plain = listwise(&problem, rewards);
            let out = evaluated(&problem, rewards, &options(Objective::Listwise, 3.0));
            assert_eq!(out.sft_losses, Some(arr1(&[-0.5 * rewards[best]])));
            assert_eq!(out.loss_sum, plain.loss_sum - 1.5 * rewards[best]);
            for i in 0..3 {
                assert_eq!(out.grad[i], plain.grad[i] - if i == best { 1.5 } else { 0.0 });
            }
        }
    }
}
