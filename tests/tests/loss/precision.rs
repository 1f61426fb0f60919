//! How exact log-probs, losses and gradients are, against float64 on the same inputs.

use lambda_dpo_core::{LogProbInputs, LogProbOptions, LossInputs, LossOptions, Reduction, log_probs, loss_forward};
use tch::{Device, Kind, Tensor};

use lambda_dpo_tests::batches::{Problem, WANTS_BOTH, WANTS_HIDDEN, loss_options, relative, relative_error};

/// Half the distance from 1 to the next float32.
const FLOAT32_ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// Hidden states and LM head whose logits reach `largest`, with `K` targets that are one sequence.
struct Scores {
    hidden: Tensor,
    lm_head: Tensor,
    positions: Tensor,
    ids: Tensor,
    sequences: Tensor,
}

const K: i64 = 400;
const H: i64 = 64;
const V: i64 = 999;

impl Scores {
    fn random(kind: Kind, largest: f64) -> Self {
        tch::manual_seed(7);
        let hidden = Tensor::randn([K, H], (Kind::Double, Device::Cpu));
        let lm_head = Tensor::randn([V, H], (Kind::Double, Device::Cpu));
        let scale = largest / hidden.matmul(&lm_head.transpose(0, 1)).abs().max().double_value(&[]);
        Self {
            hidden: (hidden * scale).to_kind(kind),
            lm_head: lm_head.to_kind(kind),
            positions: Tensor::arange(K, (Kind::Int64, Device::Cpu)),
            ids: Tensor::randint(V, [K], (Kind::Int64, Device::Cpu)),
            sequences: Tensor::zeros([K], (Kind::Int64, Device::Cpu)),
        }
    }

    fn inputs(&self) -> LogProbInputs<'_> {
        LogProbInputs {
            hidden: Some(&self.hidden),
            lm_head: Some(&self.lm_head),
            logits: None,
            sequence_log_probs: None,
            target_positions: Some(&self.positions),
            target_ids: Some(&self.ids),
            target_sequences: Some(&self.sequences),
            num_sequences: 1,
        }
    }

    /// Log-probs of the targets in float64.
    fn exact(&self) -> Tensor {
        let logits = self.hidden.to_kind(Kind::Double).matmul(&self.lm_head.to_kind(Kind::Double).transpose(0, 1));
        logits.log_softmax(-1, Kind::Double).gather(1, &self.ids.unsqueeze(1), false).squeeze_dim(1)
    }

    /// The largest Σ |h w| of a logit.
    fn magnitude(&self) -> f64 {
        let (hidden, lm_head) = (self.hidden.to_kind(Kind::Double).abs(), self.lm_head.to_kind(Kind::Double).abs());
        hidden.matmul(&lm_head.transpose(0, 1)).max().double_value(&[])
    }
}

fn largest_difference(found: &Tensor, exact: &Tensor) -> f64 {
    (found.to_kind(Kind::Double) - exact).abs().max().double_value(&[])
}

/// Products of 16-bit numbers are exact in float32, and adding H of them in any order is off by at most H roundings of
/// Σ |h w|. A log-prob is the difference of a logit and a mean of logits, so it is off by at most twice that, and by a few
/// roundings of itself. Over a sequence such errors add up as random ones do, to √K of them.
#[test]
fn log_probs_of_16_bit_inputs_have_the_error_of_float32() {
    for kind in [Kind::BFloat16, Kind::Half, Kind::Float] {
        for largest in [1.0, 20.0, 40.0] {
            let scores = Scores::random(kind, largest);
            let exact = scores.exact();
            let bar = (2.0 * H as f64 * scores.magnitude() + 8.0 * 2.0 * largest) * FLOAT32_ROUNDING;
            for logits_budget_bytes in [1, 1 << 20, 256 << 20] {
                let options = LogProbOptions { reduction: Reduction::Sum, logits_budget_bytes };
                let (of_tokens, of_sequences) = log_probs(scores.inputs(), options).unwrap();
                let off = largest_difference(&of_tokens.unwrap(), &exact);
                assert!(off < bar, "{kind:?}, logits to {largest}: a token is off by {off:e}, not {bar:e}");
                let off = (of_sequences.double_value(&[0]) - exact.sum(Kind::Double).double_value(&[])).abs();
                let bar = bar * (K as f64).sqrt();
                assert!(off < bar, "{kind:?}, logits to {largest}: a sequence is off by {off:e}, not {bar:e}");
            }
        }
    }
}

/// A softmax does not change if all logits move, and neither may the error of its logarithm: near 1000, float32 numbers
/// are 6e-5 apart. What is left are the rounding of z − max z, that of a sum of V terms by a few partial sums, and that of
/// the result.
#[test]
fn log_probs_of_distant_logits_are_as_exact_as_those_near_0() {
    tch::manual_seed(8);
    for distance in [0.0, 1000.0, -1000.0] {
        let logits = Tensor::randn([64, 500], (Kind::Float, Device::Cpu)) * 2.0 + distance;
        let ids = Tensor::randint(500, [64], (Kind::Int64, Device::Cpu));
        let inputs = LogProbInputs {
            hidden: None,
            lm_head: None,
            logits: Some(&logits),
            sequence_log_probs: None,
            target_positions: Some(&Tensor::arange(64, (Kind::Int64, Device::Cpu))),
            target_ids: Some(&ids),
            target_sequences: Some(&Tensor::zeros([64], (Kind::Int64, Device::Cpu))),
            num_sequences: 1,
        };
        let options = LogProbOptions { reduction: Reduction::Sum, logits_budget_bytes: 1 << 20 };
        let found = log_probs(inputs, options).unwrap().0.unwrap().to_kind(Kind::Double);
        let exact = logits.to_kind(Kind::Double).log_softmax(-1, Kind::Double);
        let exact = exact.gather(1, &ids.unsqueeze(1), false).squeeze_dim(1);
        let roundings = ((found - &exact).abs() / (exact.abs() + 1.0)).max().double_value(&[]) / FLOAT32_ROUNDING;
        assert!(roundings < 16.0, "at {distance}: {roundings} roundings");
    }
}

/// 16-bit gradients are rounded: an operand (softmax − 1[v = y], or the hidden states times a coefficient) and the result,
/// each by at most u of an entry, where 1 + 2u is the next number after 1. The loss comes from log-probs, which are not.
#[test]
fn gradients_of_16_bit_inputs_are_rounded_twice_and_the_loss_never() {
    for (kind, u) in [(Kind::BFloat16, 2f64.powi(-8)), (Kind::Half, 2f64.powi(-11))] {
        for seed in 0..6 {
            let low = Problem::random(seed, kind);
            let wide = |tensor: &Tensor| tensor.to_kind(Kind::Double);
            let (hidden, lm_head, reference) = (wide(&low.hidden), wide(&low.lm_head), wide(&low.reference));
            let exact_inputs = LossInputs {
                hidden: Some(&hidden),
                lm_head: Some(&lm_head),
                reference_log_probs: Some(&reference),
                ..low.inputs()
            };
            for wants in [WANTS_HIDDEN, WANTS_BOTH] {
                for logits_budget_bytes in [1, 256 << 20] {
                    let options =
                        LossOptions { beta: 0.1, logits_budget_bytes, ..loss_options(Reduction::Mean, wants) };
                    let run = |inputs: &LossInputs| {
                        let (outputs, context) = loss_forward(inputs, &options).unwrap();
                        (outputs, context.unwrap().backward(inputs, 1.0).unwrap())
                    };
                    let ((outputs, gradients), (expected, exact)) = (run(&low.inputs()), run(&exact_inputs));
                    let (loss, exact_loss) = (outputs.loss.double_value(&[]), expected.loss.double_value(&[]));
                    assert!(relative(loss, exact_loss) < 64.0 * FLOAT32_ROUNDING, "{kind:?}: {loss}, not {exact_loss}");
                    assert_eq!(outputs.token_log_probs.unwrap().kind(), Kind::Float);
                    let grad = gradients.hidden.unwrap();
                    assert_eq!(grad.kind(), kind);
                    let off = relative_error(&grad, &exact.hidden.unwrap());
                    assert!(
                        off < 2.0 * u,
                        "{kind:?}, seed {seed}, {logits_budget_bytes}: hidden gradient is off by {off}"
                    );
                    if let (Some(grad), Some(exact)) = (gradients.lm_head, exact.lm_head) {
                        assert_eq!(grad.kind(), kind);
                        let off = relative_error(&grad, &exact);
                        assert!(
                            off < 2.0 * u,
                            "{kind:?}, seed {seed}, {logits_budget_bytes}: head gradient is off by {off}"
                        );
                    }
                }
            }
        }
    }
}
