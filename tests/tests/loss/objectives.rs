//! Every objective, compared with finite differences and with the objectives that it equals.

use lambda_dpo_core::convert::convert_record;
use lambda_dpo_core::{
    ConvertOptions, Format, Layout, LossInputs, LossOptions, Objective, Reduction, TokenizedSample, Wants, loss_forward,
};
use ndarray::{Array2, array};
use serde_json::json;
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    LAYOUTS, Problem, Rng, VOCAB, WANTS_BOTH, WANTS_SEQUENCES, batch_of, causal_hidden, floats, integers, loss,
    loss_inputs, ragged_samples, relative, relative_error, sample, sequence_responses, spread,
};

use super::gradients::check_differences;
use super::sides::Side;

/// Each preference objective, with options that all of its parts depend on.
fn objectives(wants: Wants) -> Vec<LossOptions> {
    let base = LossOptions { beta: 0.7, wants, ..LossOptions::default() };
    let every = [
        LossOptions { objective: Objective::Listwise, ..base },
        LossOptions { objective: Objective::PlackettLuce, ..base },
        LossOptions { objective: Objective::Sigmoid, label_smoothing: 0.1, ..base },
        LossOptions { objective: Objective::Hinge, ..base },
        LossOptions { objective: Objective::Ipo, ..base },
        LossOptions { objective: Objective::Ipo, reduction: Reduction::Mean, ..base },
        LossOptions { objective: Objective::Simpo, reduction: Reduction::Mean, simpo_gamma: 0.4, ..base },
        LossOptions { objective: Objective::Orpo, reduction: Reduction::Mean, ..base },
    ];
    every.into_iter().flat_map(|options| [options, LossOptions { sft_weight: 0.3, ..options }]).collect()
}

/// Inputs without a reference if the objective has none.
fn without_reference<'a>(inputs: LossInputs<'a>, options: &LossOptions) -> LossInputs<'a> {
    let reference_log_probs = inputs.reference_log_probs.filter(|_| options.objective.has_reference());
    LossInputs { reference_log_probs, ..inputs }
}

/// Log-probs that ORPO, whose odds need probabilities below 1, can take.
fn log_probs(rng: &mut Rng, size: &[i64]) -> Tensor {
    -(rng.tensor(size, Kind::Double).abs() + 0.05)
}

#[test]
fn gradients_of_every_objective_match_central_differences() {
    for seed in 0..6 {
        let mut rng = Rng(5000 + seed);
        let problem = Problem::random(seed, Kind::Double);
        let given = log_probs(&mut rng, &problem.reference.size());
        for options in objectives(WANTS_SEQUENCES) {
            let inputs = without_reference(problem.with_log_probs(&given), &options);
            let (_, context) = loss_forward(&inputs, &options).unwrap();
            let grad = context.unwrap().backward(&inputs, 1.0).unwrap().sequence_log_probs.unwrap();
            let places: Vec<i64> = (0..12).map(|_| rng.between(0, grad.numel() - 1) as i64).collect();
            let moved = |s: &Tensor| loss(&LossInputs { sequence_log_probs: Some(s), ..inputs }, &options);
            check_differences(&given, &grad, &places, moved)
                .unwrap_or_else(|e| panic!("sequences, seed {seed}, {options:?}, {e}"));
        }
        for options in objectives(WANTS_BOTH) {
            let inputs = without_reference(problem.inputs(), &options);
            let (_, context) = loss_forward(&inputs, &options).unwrap();
            let grad = context.unwrap().backward(&inputs, 1.0).unwrap().lm_head.unwrap();
            let places: Vec<i64> = (0..6).map(|_| rng.between(0, grad.numel() - 1) as i64).collect();
            let by_head = |lm_head: &Tensor| loss(&LossInputs { lm_head: Some(lm_head), ..inputs }, &options);
            check_differences(&problem.lm_head, &grad, &places, by_head)
                .unwrap_or_else(|e| panic!("lm_head, seed {seed}, {options:?}, {e}"));
        }
    }
}

/// A step over 4 prompts equals 4 accumulated micro-batches of one prompt, each normalised by the step's count.
#[test]
fn accumulation_changes_no_objective() {
    let sides = Side::both();
    for layout in LAYOUTS {
        let mut rng = Rng(12);
        let samples = ragged_samples(&mut rng, 4, 3, 0.2);
        let lambda: Vec<f64> = (0..4).flat_map(|_| rng.lambda(3)).collect();
        let lm_head = rng.tensor(&[VOCAB, 6], Kind::Double);
        let hidden = causal_hidden(&mut rng, &samples, Kind::Double);
        let references = rng.tensor(&hidden.size()[..1], Kind::Double);
        for (side_name, side) in &sides {
            for options in objectives(WANTS_BOTH) {
                // Prompts from `first` on, whose responses start at `start`.
                let run = |samples: &[TokenizedSample], first: usize, start: i64, normalizer| {
                    let batch = batch_of(samples, &lambda[first * 3..][..samples.len() * 3], layout);
                    let count: i64 = samples.iter().map(|sample| sample.responses.len() as i64).sum();
                    let hidden = spread(&hidden.narrow(0, start, count), &batch);
                    let responses = Tensor::from_slice(&sequence_responses(&batch));
                    let reference = references.narrow(0, start, count).index_select(0, &responses);
                    let inputs = LossInputs {
                        hidden: Some(&hidden),
                        lm_head: Some(&lm_head),
                        reference_log_probs: Some(&reference),
                        ..loss_inputs(&batch)
                    };
                    let options = LossOptions { normalizer, ..options };
                    (side.run(&without_reference(inputs, &options), &options), batch.num_contributing)
                };
                let (whole, contributing) = run(&samples, 0, 0, None);
                let (mut sum_loss, mut sum_head, mut start) = (0.0, Tensor::zeros_like(&lm_head), 0);
                for (b, one) in samples.iter().enumerate() {
                    let (part, _) = run(std::slice::from_ref(one), b, start, Some(contributing as f64));
                    sum_loss += part.loss;
                    sum_head += part.lm_head.unwrap();
                    start += one.responses.len() as i64;
                }
                let case = format!("{options:?}, {layout:?}, {side_name}");
                assert!(relative(sum_loss, whole.loss) < 1e-12, "{case}: {sum_loss} against {}", whole.loss);
                assert!(relative_error(&sum_head, &whole.lm_head.unwrap()) < 1e-12, "{case}");
            }
        }
    }
}

/// The sample with other targets, whose order its responses take.
fn with_targets(sample: TokenizedSample, pi_target: Array2<f32>) -> TokenizedSample {
    TokenizedSample::new(sample.record_index, sample.prompt, sample.responses, pi_target)
}

/// Prompts of two responses, the first of which is preferred with certainty.
fn pairs(rng: &mut Rng) -> Problem {
    let samples: Vec<TokenizedSample> =
        (0..5).map(|b| with_targets(sample(rng, b, 3, &[2, 4], 1, 0.0), array![[1.0, 0.0]])).collect();
    Problem::of(rng, &samples, &[1.0; 5], Layout::Packed, Kind::Double)
}

#[test]
fn listwise_and_plackett_luce_of_certain_pairs_are_sigmoid() {
    for seed in 0..8 {
        let problem = pairs(&mut Rng(600 + seed));
        for reduction in [Reduction::Sum, Reduction::Mean] {
            let run = |objective| {
                let options =
                    LossOptions { objective, reduction, beta: 0.7, wants: WANTS_BOTH, ..LossOptions::default() };
                Side::Core.run(&problem.inputs(), &options)
            };
            let sigmoid = run(Objective::Sigmoid);
            for objective in [Objective::Listwise, Objective::PlackettLuce] {
                let found = run(objective);
                assert!(relative(found.loss, sigmoid.loss) < 1e-12, "{objective}: {}, {}", found.loss, sigmoid.loss);
                for (found, expected) in [(&found.hidden, &sigmoid.hidden), (&found.lm_head, &sigmoid.lm_head)] {
                    let error = relative_error(found.as_ref().unwrap(), expected.as_ref().unwrap());
                    assert!(error < 1e-12, "{objective}: gradient is off by {error:e}");
                }
            }
        }
    }
}

/// InfoNCA (arXiv 2402.05369): −Σ_i softmax(reward / α)_i log softmax(β log π/π_ref)_i over the responses of a prompt,
/// whose rewards are a record's only ratings; α is `data.temperature`. Loss and gradient.
#[test]
fn infonca_is_listwise_with_one_dimension_and_its_temperature() {
    let mut rng = Rng(71);
    for (alpha, beta) in [(1.0, 0.1), (0.5, 0.7), (3.0, 0.02)] {
        let rewards: Vec<Vec<f64>> = (0..4)
            .map(|_| {
                let n = rng.between(2, 6);
                (0..n).map(|_| rng.normal()).collect()
            })
            .collect();
        let samples: Vec<TokenizedSample> = (0..)
            .zip(&rewards)
            .map(|(index, rewards)| {
                let rated = |(i, reward): (usize, &f64)| {
                    json!({ "response": format!("answer {i}"), "annotations": { "reward": { "Rating": reward } } })
                };
                let completions: Vec<_> = rewards.iter().enumerate().map(rated).collect();
                let record = json!({ "instruction": "Q", "completions": completions }).to_string();
                let options = ConvertOptions { temperature: alpha, ..ConvertOptions::new(Format::UltraFeedback) };
                let converted = convert_record(&record, index, &options).unwrap().unwrap();
                let targets: Vec<f32> = converted.pi_target.iter().map(|p| *p as f32).collect();
                let targets = Array2::from_shape_vec((1, rewards.len()), targets).unwrap();
                with_targets(sample(&mut rng, index, 2, &vec![2; rewards.len()], 1, 0.0), targets)
            })
            .collect();
        let problem = Problem::of(&mut rng, &samples, &[1.0; 4], Layout::Rows, Kind::Double);
        let s = log_probs(&mut rng, &problem.reference.size());
        let options = LossOptions { beta, wants: WANTS_SEQUENCES, ..LossOptions::default() };
        let found = Side::Core.run(&problem.with_log_probs(&s), &options);

        // The publication's formula, differentiated by torch.
        let s = s.detach().set_requires_grad(true);
        let (mut expected, mut first) = (Tensor::from(0.0), 0);
        for rewards in &rewards {
            let n = rewards.len() as i64;
            let target = (Tensor::from_slice(rewards) / alpha).softmax(0, Kind::Double);
            let log_ratio = s.narrow(0, first, n) - problem.reference.narrow(0, first, n);
            expected -= (target * (log_ratio * beta).log_softmax(0, Kind::Double)).sum(Kind::Double) / 4.0;
            first += n;
        }
        expected.backward();
        // Batches hold targets in float32, and the terms of the sum are all positive.
        let rounding = 2f64.powi(-24);
        let loss = expected.double_value(&[]);
        assert!(relative(found.loss, loss) < rounding + 1e-12, "{} against {loss}", found.loss);
        // Of β (P − p) / 4, only p is rounded.
        let error = (found.sequence_log_probs.unwrap() - s.grad()).abs().max().double_value(&[]);
        assert!(error < beta / 4.0 * rounding + 1e-15, "gradients differ by {error:e}");
    }
}

#[test]
fn an_sft_weight_of_0_changes_no_bit() {
    for seed in 0..6 {
        let problem = Problem::random(seed, Kind::Float);
        let given = log_probs(&mut Rng(seed), &problem.reference.size()).to_kind(Kind::Float);
        for options in objectives(WANTS_BOTH).into_iter().filter(|options| options.sft_weight == 0.0) {
            let inputs = without_reference(problem.inputs(), &options);
            // Without the counts of tokens, there is nothing that a likelihood per token could be computed from.
            let without = LossInputs { sequence_num_tokens: None, ..inputs };
            let negative = LossOptions { sft_weight: -0.0, ..options };
            let expected = Side::Core.run(&without, &options);
            for (inputs, options) in [(&inputs, &options), (&inputs, &negative)] {
                let found = Side::Core.run(inputs, options);
                assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "{options:?}");
                assert_eq!(found.hidden, expected.hidden, "{options:?}");
                assert_eq!(found.lm_head, expected.lm_head, "{options:?}");
                assert_eq!(found.sft_losses.is_some(), options.objective == Objective::Orpo);
            }
            let from_sequences = without_reference(problem.with_log_probs(&given), &options);
            let of_sequences = LossOptions { wants: WANTS_SEQUENCES, ..options };
            let without = LossInputs { sequence_num_tokens: None, ..from_sequences };
            let (found, expected) =
                (Side::Core.run(&from_sequences, &of_sequences), Side::Core.run(&without, &of_sequences));
            assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "{options:?}");
            assert_eq!(found.sequence_log_probs, expected.sequence_log_probs, "{options:?}");
        }
    }
}

/// The negative log-likelihood per token of each prompt's best response, from the log-probs of tokens; 0 for a prompt
/// that does not contribute.
fn likelihood_of_the_best(problem: &Problem, token_log_probs: &Tensor) -> Vec<f64> {
    let batch = &problem.batch;
    let (tokens, sequences) = (floats(token_log_probs), integers(&batch.target_sequences));
    let (pi, lambda, offsets) = (floats(&batch.pi_target), floats(&batch.lambda), integers(&batch.prompt_offsets));
    let num_responses = *offsets.last().unwrap() as usize;
    let num_dimensions = pi.len() / num_responses;
    let responses = sequence_responses(batch);
    let mean_of = |response: usize| {
        let sequence = responses.iter().position(|of| *of as usize == response).unwrap() as i64;
        let of_sequence: Vec<f64> =
            tokens.iter().zip(&sequences).filter(|(_, of)| **of == sequence).map(|(token, _)| *token).collect();
        of_sequence.iter().sum::<f64>() / of_sequence.len() as f64
    };
    offsets
        .windows(2)
        .enumerate()
        .map(|(b, bounds)| {
            let lambda = &lambda[b * num_dimensions..][..num_dimensions];
            // Masked targets are 0 in a batch.
            let mixed = |response: usize| {
                (0..num_dimensions).map(|k| lambda[k] * pi[k * num_responses + response]).sum::<f64>()
            };
            let range = bounds[0] as usize..bounds[1] as usize;
            let highest = range.clone().map(mixed).fold(0.0, f64::max);
            let best: Vec<usize> = range.filter(|response| mixed(*response) == highest).collect();
            if highest == 0.0 { 0.0 } else { -best.iter().map(|i| mean_of(*i)).sum::<f64>() / best.len() as f64 }
        })
        .collect()
}

#[test]
fn an_sft_weight_adds_the_likelihood_of_the_best_response() {
    for seed in 0..12 {
        let problem = Problem::random(seed, Kind::Double);
        let contributing = problem.batch.num_contributing as f64;
        for options in objectives(WANTS_BOTH).into_iter().filter(|options| options.sft_weight > 0.0) {
            let inputs = without_reference(problem.inputs(), &options);
            let (outputs, _) = loss_forward(&inputs, &options).unwrap();
            let expected = likelihood_of_the_best(&problem, outputs.token_log_probs.as_ref().unwrap());
            let found = floats(outputs.preferences.unwrap().sft_losses.as_ref().unwrap());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-12, "seed {seed}, {options:?}: {found} against {expected}");
            }
            let run = |sft_weight| Side::Core.run(&inputs, &LossOptions { sft_weight, ..options });
            let (none, once, twice) = (run(0.0), run(1.0), run(2.0));
            let mean = expected.iter().sum::<f64>() / contributing;
            for (weight, found) in [(1.0, &once), (2.0, &twice)] {
                let expected = none.loss + weight * mean;
                assert!(relative(found.loss, expected) < 1e-12, "seed {seed}, {options:?}, weight {weight}");
            }
            let added = once.lm_head.unwrap() - none.lm_head.as_ref().unwrap();
            let added_twice = twice.lm_head.unwrap() - none.lm_head.as_ref().unwrap();
            assert!(added.abs().max().double_value(&[]) > 1e-3);
            assert!(relative_error(&(added_twice / 2.0), &added) < 1e-10, "seed {seed}, {options:?}");
        }
    }
}
