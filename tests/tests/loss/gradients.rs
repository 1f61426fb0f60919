//! Analytic gradients compared with float64 central differences, closed forms, and other ways to compute them.

use lambda_dpo_core::{Batch, LossInputs, LossOptions, Objective, Reduction, TokenizedSample, Wants, loss_forward};
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    HIDDEN, LAYOUTS, Problem, Rng, VOCAB, WANTS_BOTH, WANTS_HIDDEN, WANTS_LOGITS, WANTS_SEQUENCES, batch_of,
    causal_hidden, integers, loss, loss_inputs, loss_options, ragged_samples, relative, relative_error, spread,
};

const STEP: f64 = 1e-5;

/// Compares `analytic` at `places` of `tensor` with (L(x + h) − L(x − h)) / 2h, relative to the largest entry.
pub(super) fn check_differences(
    tensor: &Tensor,
    analytic: &Tensor,
    places: &[i64],
    loss: impl Fn(&Tensor) -> f64,
) -> Result<(), String> {
    let analytic = analytic.reshape([-1]);
    let scale = analytic.abs().max().double_value(&[]);
    for place in places {
        let at = |step: f64| {
            let moved = tensor.reshape([-1]).copy();
            let _ = moved.get(*place).f_add_scalar_(step).unwrap();
            loss(&moved.reshape(tensor.size()))
        };
        let numeric = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let exact = analytic.double_value(&[*place]);
        if (numeric - exact).abs() > 1e-6 * scale.max(1e-3) {
            return Err(format!("at {place}: {exact} against {numeric}, scale {scale}"));
        }
    }
    Ok(())
}

fn some_places(rng: &mut Rng, tensor: &Tensor, count: usize) -> Vec<i64> {
    (0..count).map(|_| rng.between(0, tensor.numel() - 1) as i64).collect()
}

/// Indices into the rows of `[R·T, width]` that predict a target.
fn predicting_places(rng: &mut Rng, batch: &Batch, width: i64, count: usize) -> Vec<i64> {
    let positions = integers(&batch.target_positions);
    (0..count)
        .map(|_| positions[rng.between(0, positions.len() - 1)] * width + rng.between(0, width as usize - 1) as i64)
        .collect()
}

fn options_of(seed: u64, wants: Wants) -> LossOptions {
    let reduction = if seed.is_multiple_of(4) { Reduction::Mean } else { Reduction::Sum };
    let budget = if seed.is_multiple_of(3) { 1 } else { 1 << 20 };
    LossOptions { logits_budget_bytes: budget, paper_exact: seed.is_multiple_of(5), ..loss_options(reduction, wants) }
}

#[test]
fn hidden_and_head_gradients_match_central_differences() {
    for seed in 0..24 {
        let mut rng = Rng(1000 + seed);
        let problem = Problem::random(seed, Kind::Double);
        let inputs = problem.inputs();
        let options = options_of(seed, WANTS_BOTH);
        let (_, context) = loss_forward(&inputs, &options).unwrap();
        let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();

        let places = predicting_places(&mut rng, &problem.batch, HIDDEN, 12);
        let by_hidden = |hidden: &Tensor| loss(&LossInputs { hidden: Some(hidden), ..problem.inputs() }, &options);
        check_differences(&problem.hidden, &gradients.hidden.unwrap(), &places, by_hidden)
            .unwrap_or_else(|e| panic!("hidden, seed {seed}, {e}"));

        let places = some_places(&mut rng, &problem.lm_head, 12);
        let by_head = |head: &Tensor| loss(&LossInputs { lm_head: Some(head), ..problem.inputs() }, &options);
        check_differences(&problem.lm_head, &gradients.lm_head.unwrap(), &places, by_head)
            .unwrap_or_else(|e| panic!("lm_head, seed {seed}, {e}"));
    }
}

#[test]
fn logits_gradients_match_central_differences() {
    for seed in 0..24 {
        let mut rng = Rng(2000 + seed);
        let problem = Problem::random(seed, Kind::Double);
        let logits = problem.logits();
        let options = options_of(seed, WANTS_LOGITS);
        let (_, context) = loss_forward(&problem.with_logits(&logits), &options).unwrap();
        let grad = context.unwrap().backward(&problem.with_logits(&logits), 1.0).unwrap().logits.unwrap();
        assert_eq!(grad.size(), logits.size());
        let mut places = predicting_places(&mut rng, &problem.batch, VOCAB, 16);
        places.extend(some_places(&mut rng, &logits, 4));
        check_differences(&logits, &grad, &places, |logits| loss(&problem.with_logits(logits), &options))
            .unwrap_or_else(|e| panic!("seed {seed}, {e}"));
    }
}

#[test]
fn sequence_gradients_match_central_differences() {
    for seed in 0..48 {
        let problem = Problem::random(seed, Kind::Double);
        let log_probs = Rng(3000 + seed).tensor(&problem.reference.size(), Kind::Double);
        let options = options_of(seed, WANTS_SEQUENCES);
        let (_, context) = loss_forward(&problem.with_log_probs(&log_probs), &options).unwrap();
        let grad =
            context.unwrap().backward(&problem.with_log_probs(&log_probs), 3.0).unwrap().sequence_log_probs.unwrap();
        let places: Vec<i64> = (0..log_probs.numel() as i64).collect();
        check_differences(&log_probs, &(grad / 3.0), &places, |log_probs| {
            loss(&problem.with_log_probs(log_probs), &options)
        })
        .unwrap_or_else(|e| panic!("seed {seed}, {e}"));
    }
}

#[test]
fn sft_is_the_mean_over_target_tokens() {
    for seed in 0..9 {
        let mut rng = Rng(4000 + seed);
        let problem = Problem::random(seed, Kind::Double);
        let inputs = LossInputs {
            reference_log_probs: None,
            prompt_offsets: None,
            pi_target: None,
            lambda: None,
            ..problem.inputs()
        };
        let options = LossOptions { objective: Objective::Sft, paper_exact: false, ..options_of(seed, WANTS_BOTH) };
        let (outputs, context) = loss_forward(&inputs, &options).unwrap();
        let mean = -outputs.token_log_probs.unwrap().mean(Kind::Double).double_value(&[]);
        assert!(relative(outputs.loss.double_value(&[]), mean) < 1e-12 && outputs.preferences.is_none());
        let num_tokens = problem.batch.target_ids.numel() as f64;
        let halved = LossOptions { normalizer: Some(2.0 * num_tokens), ..options };
        assert!(relative(loss(&inputs, &halved), mean / 2.0) < 1e-12);

        let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
        let places = predicting_places(&mut rng, &problem.batch, HIDDEN, 12);
        let by_hidden = |hidden: &Tensor| loss(&LossInputs { hidden: Some(hidden), ..inputs }, &options);
        check_differences(&problem.hidden, &gradients.hidden.unwrap(), &places, by_hidden)
            .unwrap_or_else(|e| panic!("hidden, seed {seed}, {e}"));
        let places = some_places(&mut rng, &problem.lm_head, 12);
        let by_head = |head: &Tensor| loss(&LossInputs { lm_head: Some(head), ..inputs }, &options);
        check_differences(&problem.lm_head, &gradients.lm_head.unwrap(), &places, by_head)
            .unwrap_or_else(|e| panic!("lm_head, seed {seed}, {e}"));
    }
}

#[test]
fn one_pass_kept_by_prompt_and_recomputed_agree() {
    for seed in 0..12 {
        let problem = Problem::random(seed, Kind::Double);
        let inputs = problem.inputs();
        let run = |wants, logits_budget_bytes| {
            let options = LossOptions { logits_budget_bytes, ..loss_options(Reduction::Mean, wants) };
            let (outputs, context) = loss_forward(&inputs, &options).unwrap();
            (outputs, context.unwrap().backward(&inputs, 0.5).unwrap())
        };
        let (kept_outputs, kept) = run(WANTS_BOTH, 1 << 30);
        let (kept_hidden, kept_head) = (kept.hidden.unwrap(), kept.lm_head.unwrap());
        let num_targets = problem.batch.target_ids.numel();
        let of_targets = |number: usize| number * 8 * VOCAB as usize;
        // One position a chunk, a few, as many prompts as come to two thirds or all but one, all.
        for budget in [0, of_targets(3), of_targets(num_targets * 2 / 3), of_targets(num_targets - 1), 1 << 30] {
            let (outputs, one_pass) = run(WANTS_HIDDEN, budget);
            assert!(one_pass.lm_head.is_none());
            assert!(relative_error(&one_pass.hidden.unwrap(), &kept_hidden) < 1e-12, "one pass, {budget}");
            assert!(relative_error(&outputs.loss, &kept_outputs.loss) < 1e-12);
            let (outputs, trained) = run(WANTS_BOTH, budget);
            assert!(relative_error(&trained.hidden.unwrap(), &kept_hidden) < 1e-12, "trained head, {budget}");
            assert!(relative_error(&trained.lm_head.unwrap(), &kept_head) < 1e-12, "trained head, {budget}");
            assert!(
                relative_error(&outputs.token_log_probs.unwrap(), kept_outputs.token_log_probs.as_ref().unwrap())
                    < 1e-12
            );
        }
        let head_only = Wants { lm_head: true, ..Wants::default() };
        for budget in [0, of_targets(num_targets - 1)] {
            let (_, head) = run(head_only, budget);
            assert!(head.hidden.is_none() && relative_error(&head.lm_head.unwrap(), &kept_head) < 1e-12);
        }
    }
}

/// A step over 4 prompts equals 4 accumulated micro-batches of one prompt, each normalised by the step's count.
#[test]
fn accumulation_changes_nothing() {
    for layout in LAYOUTS {
        let mut rng = Rng(11);
        let samples = ragged_samples(&mut rng, 4, 3, 0.2);
        let lambda: Vec<f64> = (0..4).flat_map(|_| rng.lambda(3)).collect();
        let lm_head = rng.tensor(&[VOCAB, HIDDEN], Kind::Double);
        let hidden = causal_hidden(&mut rng, &samples, Kind::Double);
        let run = |samples: &[TokenizedSample], lambda: &[f64], hidden: &Tensor, normalizer| {
            let batch = batch_of(samples, lambda, layout);
            let hidden = spread(hidden, &batch);
            let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(&lm_head), ..loss_inputs(&batch) };
            let options = LossOptions { normalizer, ..loss_options(Reduction::Sum, WANTS_BOTH) };
            let (outputs, context) = loss_forward(&inputs, &options).unwrap();
            let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
            let squares = gradients.hidden.unwrap().square().sum(Kind::Double).double_value(&[]);
            let contributing = batch.num_contributing;
            (outputs.loss.double_value(&[]), gradients.lm_head.unwrap(), squares, contributing)
        };
        let (loss, head, squares, contributing) = run(&samples, &lambda, &hidden, None);
        let (mut sum_loss, mut sum_head, mut sum_squares) = (0.0, Tensor::zeros_like(&lm_head), 0.0);
        let mut first = 0;
        for (b, one) in samples.iter().enumerate() {
            let n = one.responses.len() as i64;
            let part = hidden.narrow(0, first, n);
            let result = run(std::slice::from_ref(one), &lambda[b * 3..][..3], &part, Some(contributing as f64));
            sum_loss += result.0;
            sum_head += result.1;
            sum_squares += result.2;
            first += n;
        }
        assert!(relative(sum_loss, loss) < 1e-12, "{layout:?}: {sum_loss} against {loss}");
        assert!(relative_error(&sum_head, &head) < 1e-12, "{layout:?}");
        assert!(relative(sum_squares.sqrt(), squares.sqrt()) < 1e-12, "{layout:?}");
    }
}
