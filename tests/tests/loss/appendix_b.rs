//! The loss and its gradients compared with a PyTorch transcription of the paper's Appendix B.
//!
//! The golden values come from `fixtures/golden/appendix_b/make_goldens.py`.

use std::collections::HashMap;

use lambda_dpo_core::{
    Batch, Layout, LossInputs, LossOptions, Reduction, TokenizedResponse, TokenizedSample, Wants, loss_forward,
};
use lambda_dpo_tests::fixture;
use ndarray::Array2;
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    LAYOUTS, WANTS_BOTH, WANTS_HIDDEN, batch_of, floats, gather, integers, loss_inputs, loss_options, relative,
    relative_error, sequence_responses, spread,
};

const B: i64 = 4;
const M: i64 = 4;
const N: i64 = 4;

struct Golden(HashMap<String, Tensor>);

impl Golden {
    fn read() -> Self {
        let file = fixture("golden/appendix_b/golden.safetensors");
        Self(Tensor::read_safetensors(file).unwrap().into_iter().collect())
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    fn number(&self, name: &str) -> f64 {
        self.get(name).double_value(&[])
    }

    fn samples(&self) -> Vec<TokenizedSample> {
        let tokens = |name: &str, lengths: &str| {
            let (mut rest, mut out) = (integers(self.get(name)), Vec::new());
            for length in integers(self.get(lengths)) {
                let tail = rest.split_off(length as usize);
                out.push(std::mem::replace(&mut rest, tail));
            }
            out
        };
        let prompts = tokens("prompt_tokens", "prompt_lengths");
        let responses = tokens("response_tokens", "response_lengths");
        let pi = floats(self.get("pi_target"));
        let sample = |(b, prompt): (usize, Vec<i64>)| {
            TokenizedSample::new(
                b as u64,
                prompt,
                (0..N as usize)
                    .map(|i| TokenizedResponse {
                        response_index: i,
                        ids: responses[b * N as usize + i].clone(),
                        is_target: None,
                    })
                    .collect(),
                Array2::from_shape_fn((M as usize, N as usize), |(k, i)| pi[(b * 4 + k) * 4 + i] as f32),
            )
        };
        prompts.into_iter().enumerate().map(sample).collect()
    }

    fn batch(&self, layout: Layout) -> Batch {
        let lambda = floats(self.get("lambda")).repeat(B as usize);
        batch_of(&self.samples(), &lambda, layout)
    }

    fn options(&self, wants: Wants) -> LossOptions {
        LossOptions { beta: self.number("beta"), paper_exact: true, ..loss_options(Reduction::Mean, wants) }
    }
}

/// Reorders values by response [C] to those by sequence of a batch [S].
fn by_sequence(by_response: &Tensor, batch: &Batch) -> Tensor {
    by_response.index_select(0, &Tensor::from_slice(&sequence_responses(batch)))
}

#[test]
fn the_expanded_batch_is_the_papers() {
    let golden = Golden::read();
    let batch = golden.batch(Layout::Expanded);
    for (name, tensor) in
        [("input_ids", &batch.input_ids), ("attention_mask", &batch.attention_mask), ("labels", &batch.labels)]
    {
        assert_eq!(tensor, golden.get(name), "{name}");
    }
    // The paper's collator stores the targets as [16·B], row by row.
    let pi = batch.pi_target.reshape([M, B, N]).permute([1, 0, 2]);
    assert_eq!(&pi.contiguous(), golden.get("pi_target"));
}

#[test]
fn loss_and_gradients_are_the_papers_in_every_layout() {
    let golden = Golden::read();
    let (c, p) = (golden.get("hidden").size()[0], golden.get("hidden").size()[1]);
    let grad_hidden = golden.get("grad_hidden");
    let expanded = golden.batch(Layout::Expanded);
    let expected_hidden = gather(grad_hidden, &expanded, c, p);
    // The golden values are float32, as are ratings and λ: 6e-8 of a term. In float32, log-probs are sums of H products, and
    // gradients sums of V or K of them: the tolerances are some 16 and 160 roundings.
    for (kind, loss_tolerance, gradient_tolerance) in [(Kind::Float, 1e-6, 1e-5), (Kind::Double, 1e-7, 1e-6)] {
        let weights = Tensor::read_safetensors(fixture("golden/appendix_b/model/model.safetensors")).unwrap();
        let (_, lm_head) = weights.into_iter().find(|(name, _)| name == "lm_head.weight").unwrap();
        let lm_head = lm_head.to_kind(kind);
        for layout in LAYOUTS {
            let batch = golden.batch(layout);
            let hidden = spread(&golden.get("hidden").to_kind(kind), &batch);
            let reference = by_sequence(golden.get("reference_log_probs"), &batch).to_kind(kind);
            let inputs = LossInputs {
                hidden: Some(&hidden),
                lm_head: Some(&lm_head),
                reference_log_probs: Some(&reference),
                ..loss_inputs(&batch)
            };
            for wants in [WANTS_HIDDEN, WANTS_BOTH] {
                let (outputs, context) = loss_forward(&inputs, &golden.options(wants)).unwrap();
                let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
                let case = format!("{layout:?} {kind:?} {wants:?}");

                let loss = outputs.loss.double_value(&[]);
                assert!(relative(loss, golden.number("loss")) < loss_tolerance, "{case}: loss {loss}");
                assert!(relative(loss, golden.number("model_loss")) < 1e-6, "{case}: loss {loss}");
                let log_probs = by_sequence(golden.get("sequence_log_probs"), &batch);
                assert!(relative_error(&outputs.sequence_log_probs, &log_probs) < 1e-6, "{case}: log-probs");
                let parts = outputs.preferences.unwrap().dimension_losses.mean_dim(0, false, Kind::Double);
                assert!(relative_error(&parts, golden.get("dimension_losses")) < loss_tolerance, "{case}: parts");

                let grad = gradients.hidden.unwrap();
                assert_eq!((grad.size(), grad.kind()), (hidden.size(), kind));
                let error = relative_error(&gather(&grad, &batch, c, p), &expected(&expected_hidden, layout, &batch));
                assert!(error < gradient_tolerance, "{case}: hidden gradient is off by {error}");
                if layout == Layout::Expanded {
                    let error = relative_error(&grad, grad_hidden);
                    assert!(error < gradient_tolerance, "{case}: hidden gradient by row is off by {error}");
                }
                if wants.lm_head {
                    let error = relative_error(&gradients.lm_head.unwrap(), golden.get("grad_lm_head"));
                    assert!(error < gradient_tolerance, "{case}: LM head gradient is off by {error}");
                }
            }
        }
    }
}

/// The gradient that [`gather`] should return for a layout: in the packed layout a prompt's responses share its tokens.
fn expected(by_response: &Tensor, layout: Layout, batch: &Batch) -> Tensor {
    let expected = by_response.copy();
    if layout != Layout::Packed {
        return expected;
    }
    let prompts = batch.prompt_ids.size()[0];
    for row in 0..prompts {
        let is_prompt = batch.prompt_ids.get(row).ge(0).logical_and(&batch.sequence_ids.get(row).lt(0));
        let length = is_prompt.sum(Kind::Int64).int64_value(&[]);
        let mut of_prompt = expected.narrow(0, row * N, N).narrow(1, 0, length);
        let shared = of_prompt.sum_dim_intlist(0i64, true, Kind::Double);
        let _ = of_prompt.zero_();
        of_prompt.narrow(0, 0, 1).copy_(&shared);
    }
    expected
}

#[test]
fn without_a_reference_its_log_probs_are_zero() {
    let golden = Golden::read();
    let batch = golden.batch(Layout::Packed);
    let log_probs = golden.get("sequence_log_probs");
    let inputs = LossInputs { sequence_log_probs: Some(log_probs), ..loss_inputs(&batch) };
    let (outputs, context) = loss_forward(&inputs, &golden.options(Wants::default())).unwrap();
    assert!(context.is_none() && outputs.token_log_probs.is_none());
    assert!(relative(outputs.loss.double_value(&[]), golden.number("no_reference_loss")) < 1e-7);
}
