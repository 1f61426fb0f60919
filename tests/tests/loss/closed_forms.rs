//! The loss: closed forms, errors for bad inputs, and that it leaves the caller's autograd state as it is.

use lambda_dpo_core::{Layout, LossInputs, LossOptions, Reduction, TokenizedSample, Wants, log_probs, loss_forward};
use ndarray::array;
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    HIDDEN, Problem, Rng, VOCAB, WANTS_BOTH, WANTS_HIDDEN, WANTS_LOGITS, floats, loss, loss_options, pi_target,
    ragged_samples, relative, relative_error, sample,
};

/// N = 2 with target (1, 0) is −log σ(r_w − r_l) (6).
#[test]
fn dpo_is_the_pairwise_case() {
    let mut rng = Rng(5);
    let samples: Vec<TokenizedSample> = (0..4)
        .map(|b| {
            let drawn = sample(&mut rng, b, 4, &[3, 5], 1, 0.0);
            TokenizedSample { pi_target: array![[1.0, 0.0]], ranks: array![[1, 2]], ..drawn }
        })
        .collect();
    for kind in [Kind::Float, Kind::Double] {
        let problem = Problem::of(&mut rng, &samples, &[1.0; 4], Layout::Packed, kind);
        let options = loss_options(Reduction::Sum, WANTS_HIDDEN);
        let (outputs, _) = loss_forward(&problem.inputs(), &options).unwrap();
        let rewards = floats(&((outputs.sequence_log_probs.to_kind(Kind::Double) - &problem.reference) * options.beta));
        let losses: Vec<f64> = rewards.chunks(2).map(|pair| (-(pair[0] - pair[1])).exp().ln_1p()).collect();
        let mean = losses.iter().sum::<f64>() / 4.0;
        assert!(relative(outputs.loss.double_value(&[]), mean) < 1e-12);
        let listwise = outputs.preferences.unwrap();
        for (pair, (accuracy, margin)) in
            rewards.chunks(2).zip(floats(&listwise.accuracies).into_iter().zip(floats(&listwise.margins)))
        {
            assert_eq!(accuracy, f64::from(u8::from(pair[0] > pair[1])));
            assert!((margin - (pair[0] - pair[1])).abs() < 1e-12);
        }
    }
}

#[test]
fn log_probs_without_a_loss_are_those_of_the_loss() {
    let problem = Problem::random(2, Kind::Double);
    for reduction in [Reduction::Sum, Reduction::Mean] {
        let options = loss_options(reduction, Wants::default());
        let (token, sequence) = log_probs(&problem.inputs(), &options).unwrap();
        let (outputs, _) = loss_forward(&problem.inputs(), &options).unwrap();
        assert_eq!(sequence, outputs.sequence_log_probs);
        assert_eq!(token, outputs.token_log_probs);

        let full = problem.logits().reshape([-1, VOCAB]).log_softmax(-1, Kind::Double);
        let places = &problem.batch.target_positions * VOCAB + &problem.batch.target_ids;
        assert!(relative_error(&token.unwrap(), &full.reshape([-1]).index_select(0, &places)) < 1e-12);
    }
}

#[test]
fn nan_comes_out_as_nan() {
    let problem = Problem::random(2, Kind::Float);
    let position = problem.batch.target_positions.int64_value(&[0]);
    let hidden = problem.hidden.reshape([-1, HIDDEN]).copy();
    let _ = hidden.get(position).fill_(f64::NAN);
    let inputs = LossInputs { hidden: Some(&hidden), ..problem.inputs() };
    assert!(loss(&inputs, &loss_options(Reduction::Sum, Wants::default())).is_nan());
}

#[test]
fn prompts_without_weight_contribute_nothing() {
    let mut rng = Rng(8);
    // No dimension of the first prompt rates two responses; the dimension that rates the second prompt has λ = 0.
    let mut samples = ragged_samples(&mut rng, 2, 2, 0.0);
    samples[0].pi_target = pi_target(&array![[3.0, f64::NAN], [f64::NAN, 4.0]]);
    samples[0].responses.truncate(2);
    samples[1].pi_target.row_mut(0).fill(f32::NAN);
    let with_ranks = |s: TokenizedSample| TokenizedSample::new(s.record_index, s.prompt, s.responses, s.pi_target);
    let samples: Vec<TokenizedSample> = samples.into_iter().map(with_ranks).collect();
    let problem = Problem::of(&mut rng, &samples, &[0.5, 0.5, 1.0, 0.0], Layout::Rows, Kind::Float);
    assert_eq!(problem.batch.num_contributing, 0);
    let options = loss_options(Reduction::Sum, WANTS_BOTH);
    let (outputs, context) = loss_forward(&problem.inputs(), &options).unwrap();
    let gradients = context.unwrap().backward(&problem.inputs(), 1.0).unwrap();
    assert_eq!(outputs.loss.double_value(&[]), 0.0);
    assert_eq!(gradients.hidden.unwrap().abs().max().double_value(&[]), 0.0);
    assert_eq!(gradients.lm_head.unwrap().abs().max().double_value(&[]), 0.0);
    let listwise = outputs.preferences.unwrap();
    assert_eq!(Vec::<bool>::try_from(listwise.dimension_mask.reshape([-1])).unwrap(), [false, false, false, true]);
    assert_eq!(floats(&listwise.prompt_losses), [0.0, 0.0]);
}

/// Inputs may be leaves or part of a graph; neither the graph nor the caller's grad mode changes.
#[test]
fn the_callers_autograd_state_is_unchanged() {
    let problem = Problem::random(2, Kind::Float);
    let hidden = problem.hidden.copy().set_requires_grad(true);
    let lm_head = problem.lm_head.copy().set_requires_grad(true);
    let inputs = LossInputs { hidden: Some(&hidden), lm_head: Some(&lm_head), ..problem.inputs() };
    let (outputs, context) = loss_forward(&inputs, &loss_options(Reduction::Sum, WANTS_BOTH)).unwrap();
    let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
    assert!(!outputs.loss.requires_grad() && !outputs.sequence_log_probs.requires_grad());
    assert!(!gradients.hidden.as_ref().unwrap().requires_grad());
    assert!((&hidden * 2.0).requires_grad(), "grad mode must be restored");
    (&hidden * gradients.hidden.as_ref().unwrap()).sum(Kind::Float).backward();
    assert_eq!(&hidden.grad(), gradients.hidden.as_ref().unwrap());
}

#[test]
fn bad_inputs_are_reported() {
    let problem = Problem::random(2, Kind::Float);
    let options = loss_options(Reduction::Sum, Wants::default());
    let refused = |inputs: &LossInputs, options: &LossOptions| loss_forward(inputs, options).unwrap_err().to_string();
    let check = |inputs: LossInputs, message: &str| assert_eq!(refused(&inputs, &options), message);

    let ids = problem.batch.target_ids.copy();
    let _ = ids.get(1).fill_(VOCAB);
    check(
        LossInputs { target_ids: Some(&ids), ..problem.inputs() },
        "target_ids is 23 at 1, but it must be at least 0 and below 23",
    );
    let ids = problem.batch.target_ids.to_kind(Kind::Int);
    check(LossInputs { target_ids: Some(&ids), ..problem.inputs() }, "target_ids is int32, but it must be int64");
    check(
        LossInputs { target_sequences: None, ..problem.inputs() },
        "target_sequences is missing: a loss from hidden states or logits needs it",
    );
    let head = problem.lm_head.to_kind(Kind::BFloat16);
    check(
        LossInputs { lm_head: Some(&head), ..problem.inputs() },
        "hidden is float32, but lm_head is bfloat16: cast one to the other's dtype",
    );
    let head = problem.lm_head.narrow(1, 0, 3);
    let hidden_shape = problem.hidden.size();
    check(
        LossInputs { lm_head: Some(&head), ..problem.inputs() },
        &format!(
            "lm_head has shape [23, 3], but it must have shape [vocabulary, 6] for hidden states of shape {hidden_shape:?}"
        ),
    );
    check(
        LossInputs { hidden: None, lm_head: None, ..problem.inputs() },
        "there is nothing to compute log-probs from: give hidden and lm_head, or logits, or sequence_log_probs",
    );
    let reference = Tensor::zeros([1], (Kind::Float, tch::Device::Cpu));
    let s = problem.reference.size()[0];
    check(
        LossInputs { reference_log_probs: Some(&reference), ..problem.inputs() },
        &format!("reference_log_probs has shape [1], but it must have shape [{s}]"),
    );
    let lambda = problem.batch.lambda.copy();
    let _ = lambda.get(1).get(0).fill_(-1.0);
    check(
        LossInputs { lambda: Some(&lambda), ..problem.inputs() },
        "lambda of prompt 1 is -1 at dimension 0, but it must be a finite number of at least 0",
    );
    let wrong = LossOptions { beta: 0.0, ..options };
    assert_eq!(refused(&problem.inputs(), &wrong), "beta is 0, but it must be a finite number above 0");
    let wrong = LossOptions { normalizer: Some(0.0), ..options };
    assert_eq!(refused(&problem.inputs(), &wrong), "normalizer is 0, but it must be a finite number above 0");
    let wrong = LossOptions { wants: WANTS_LOGITS, ..options };
    assert_eq!(refused(&problem.inputs(), &wrong), "a gradient for logits is wanted, but logits was not given");

    let shorter = problem.hidden.narrow(1, 0, 8);
    let other = LossInputs { hidden: Some(&shorter), ..problem.inputs() };
    let (_, context) = loss_forward(&problem.inputs(), &loss_options(Reduction::Sum, WANTS_HIDDEN)).unwrap();
    assert_eq!(
        context.unwrap().backward(&other, 1.0).unwrap_err().to_string(),
        "the inputs of the backward differ from those of its forward in shape, dtype or device: pass the same tensors again"
    );
}
