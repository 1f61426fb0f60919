//! The collator's three layouts: their fields, and that the loss is the same in all of them.

use lambda_dpo_core::{
    Batch, CollateOptions, Layout, LossInputs, Reduction, TokenizedResponse, TokenizedSample, collate, loss_forward,
};
use ndarray::{Array2, array};
use tch::{Kind, Tensor};

use lambda_dpo_tests::batches::{
    HIDDEN, LAYOUTS, Rng, VOCAB, WANTS_BOTH, batch_of, causal_hidden, collate_options, floats, gather, integers,
    loss_inputs, loss_options, ragged_samples, relative, relative_error, spread,
};

fn response(response_index: usize, ids: &[i64]) -> TokenizedResponse {
    TokenizedResponse { response_index, ids: ids.to_vec(), is_target: None }
}

/// Two prompts, M = 2: one with three responses, the record's second having been dropped; one with two and a rating
/// missing.
fn samples() -> Vec<TokenizedSample> {
    vec![
        TokenizedSample::new(
            7,
            vec![1, 2, 3],
            vec![response(0, &[11, 12]), response(2, &[13]), response(3, &[14, 15, 16])],
            array![[0.5, 0.25, 0.25], [f32::NAN, 0.75, 0.25]],
        ),
        TokenizedSample::new(
            9,
            vec![4],
            vec![response(0, &[17]), response(1, &[18, 19])],
            array![[0.1, 0.9], [f32::NAN, 1.0]],
        ),
    ]
}

const LAMBDA: [f64; 4] = [0.25, 0.75, 0.5, 0.5];

fn rows(tensor: &Tensor) -> Vec<Vec<i64>> {
    Vec::<Vec<i64>>::try_from(tensor).unwrap()
}

#[test]
fn packed_rows_hold_a_prompt_and_its_responses() {
    let batch = batch_of(&samples(), &LAMBDA, Layout::Packed);
    let pad = -100;
    assert_eq!(
        rows(&batch.input_ids),
        [[1, 2, 3, 11, 12, 13, 14, 15, 16, 0, 0, 0, 0, 0, 0, 0], [4, 17, 18, 19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    );
    assert_eq!(rows(&batch.position_ids)[0][..9], [0, 1, 2, 3, 4, 3, 3, 4, 5]);
    assert_eq!(rows(&batch.labels)[0][..10], [pad, pad, pad, 11, 12, 13, 14, 15, 16, pad]);
    assert_eq!(rows(&batch.prompt_ids)[0], [0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1]);
    assert_eq!(rows(&batch.sequence_ids)[0][..10], [-1, -1, -1, 0, 0, 1, 2, 2, 2, -1]);
    assert_eq!(rows(&batch.sequence_ids)[1][..5], [-1, 3, 4, 4, -1]);
    assert_eq!(rows(&batch.attention_mask)[1][..5], [1, 1, 1, 1, 0]);
    // The prompt's last token (at 2, and at 16 in the second row) predicts the first token of each response.
    assert_eq!(integers(&batch.target_positions), [2, 3, 2, 2, 6, 7, 16, 16, 18]);
    assert_eq!(integers(&batch.target_ids), [11, 12, 13, 14, 15, 16, 17, 18, 19]);
    assert_eq!(integers(&batch.target_sequences), [0, 0, 1, 2, 2, 2, 3, 4, 4]);
    assert_eq!(integers(&batch.sequence_num_tokens), [2, 1, 3, 1, 2]);
    assert_eq!(integers(&batch.sequence_prompts), [0, 0, 0, 1, 1]);
    assert_eq!(integers(&batch.sequence_responses), [0, 2, 3, 0, 1]);
    assert_eq!(integers(&batch.prompt_offsets), [0, 3, 5]);
    assert_eq!(rows(&batch.sequence_index), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
    assert_eq!(integers(&batch.record_indices), [7, 9]);
}

#[test]
fn rows_hold_one_response_each() {
    let batch = batch_of(&samples(), &LAMBDA, Layout::Rows);
    assert_eq!(
        rows(&batch.input_ids),
        [
            [1, 2, 3, 11, 12, 0, 0, 0],
            [1, 2, 3, 13, 0, 0, 0, 0],
            [1, 2, 3, 14, 15, 16, 0, 0],
            [4, 17, 0, 0, 0, 0, 0, 0],
            [4, 18, 19, 0, 0, 0, 0, 0]
        ]
    );
    assert_eq!(rows(&batch.position_ids)[2], [0, 1, 2, 3, 4, 5, 0, 0]);
    assert_eq!(integers(&batch.target_positions), [2, 3, 10, 18, 19, 20, 24, 32, 33]);
    assert_eq!(rows(&batch.sequence_index), [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]);
}

#[test]
fn expanded_rows_go_by_prompt_dimension_response() {
    let batch = batch_of(&samples(), &LAMBDA, Layout::Expanded);
    let first: Vec<i64> =
        rows(&batch.input_ids).iter().map(|row| row[row.iter().position(|id| *id > 10).unwrap()]).collect();
    assert_eq!(first, [11, 13, 14, 11, 13, 14, 17, 18, 17, 18]);
    assert_eq!(rows(&batch.sequence_index), [[0, 1, 2, 6, 7], [3, 4, 5, 8, 9]]);
    assert_eq!(integers(&batch.sequence_prompts), [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(integers(&batch.sequence_responses), [0, 2, 3, 0, 2, 3, 0, 1, 0, 1]);
}

#[test]
fn lambda_is_renormalised_over_the_dimensions_that_count() {
    for layout in LAYOUTS {
        let batch = batch_of(&samples(), &LAMBDA, layout);
        // The second prompt's second dimension rates only one response.
        assert_eq!(floats(&batch.lambda), [0.25, 0.75, 1.0, 0.0]);
        assert_eq!(
            floats(&batch.pi_target),
            floats(&Tensor::from_slice(&[0.5f32, 0.25, 0.25, 0.1, 0.9, 0.0, 0.75, 0.25, 0.0, 0.0]))
        );
        let mask = Vec::<bool>::try_from(batch.target_mask.reshape([-1])).unwrap();
        assert_eq!(mask, [true, true, true, true, true, false, true, true, false, false]);
        assert_eq!(batch.num_contributing, 2);
        assert_eq!(batch.pi_target.kind(), Kind::Float);

        let batch = batch_of(&samples(), &[1.0, 0.0, 0.0, 1.0], layout);
        assert_eq!(floats(&batch.lambda), [1.0, 0.0, 0.0, 0.0]);
        assert_eq!(batch.num_contributing, 1);
    }
}

#[test]
fn aligned_rows_get_no_padding() {
    let width = |prompt: usize, multiple: usize| {
        let mut samples = samples();
        samples[0].prompt = vec![1; prompt];
        let options = CollateOptions { pad_to_multiple_of: multiple, pad_token_id: 5, ..collate_options(Layout::Rows) };
        let batch = collate(&samples.iter().collect::<Vec<_>>(), &LAMBDA, &options).unwrap();
        assert_eq!(batch.input_ids.get(3).int64_value(&[-1]), 5);
        batch.input_ids.size()[1]
    };
    // The longest response has 3 tokens.
    assert_eq!((width(4, 8), width(5, 8), width(6, 8), width(6, 1)), (8, 8, 16, 9));
}

#[test]
fn prompts_share_a_row_if_they_fit() {
    let lengths = [5, 9, 3, 6, 2, 20];
    let samples: Vec<TokenizedSample> = lengths
        .iter()
        .enumerate()
        .map(|(b, length)| {
            TokenizedSample::new(
                b as u64,
                vec![b as i64 + 1; length - 2],
                vec![response(0, &[20]), response(1, &[21])],
                array![[0.5, 0.5]],
            )
        })
        .collect();
    let options = CollateOptions { max_tokens: Some(12), ..collate_options(Layout::Packed) };
    let batch = collate(&samples.iter().collect::<Vec<_>>(), &[1.0; 6], &options).unwrap();
    let shared: Vec<Vec<i64>> = rows(&batch.prompt_ids)
        .into_iter()
        .map(|mut row| {
            row.retain(|prompt| *prompt >= 0);
            row.dedup();
            row
        })
        .collect();
    // First fit over 20, 9, 6, 5, 3, 2: the one above the bound has its own row, then 9 + 3, 6 + 5 and 2.
    assert_eq!(shared, [vec![0, 3], vec![1, 2], vec![4], vec![5]]);
    assert_eq!(batch.input_ids.size(), [4, 24]);
    assert_eq!(integers(&batch.record_indices), [0, 1, 2, 3, 4, 5]);
    assert!(integers(&batch.target_sequences).is_sorted());
    // Positions restart with each prompt.
    assert_eq!(rows(&batch.position_ids)[0][..11], [0, 1, 2, 3, 3, 0, 1, 2, 3, 4, 4]);
}

/// By the rule of `sequence_ids`, a token attends to its prompt and to its own response up to itself.
#[test]
fn a_packed_token_attends_to_its_prompt_and_its_own_response() {
    let mut rng = Rng(21);
    let samples = ragged_samples(&mut rng, 5, 2, 0.0);
    let refs: Vec<_> = samples.iter().collect();
    let lambda = [0.5; 10];
    for max_tokens in [None, Some(60)] {
        let options = CollateOptions { max_tokens, ..collate_options(Layout::Packed) };
        let batch = collate(&refs, &lambda, &options).unwrap();
        let (ids, prompts, sequences) =
            (integers(&batch.input_ids), integers(&batch.prompt_ids), integers(&batch.sequence_ids));
        let (slots, places) = (integers(&batch.sequence_prompts), integers(&batch.sequence_responses));
        let width = batch.input_ids.size()[1] as usize;
        let mut seen = vec![Vec::new(); slots.len()];
        for ((position, id), s) in integers(&batch.target_positions)
            .into_iter()
            .zip(integers(&batch.target_ids))
            .zip(integers(&batch.target_sequences))
        {
            let at = position as usize;
            let visible = (at - at % width..=at).filter(|other| {
                prompts[*other] == prompts[at] && (sequences[*other] == sequences[at] || sequences[*other] == -1)
            });
            let mut context: Vec<i64> = visible.map(|other| ids[other]).collect();
            context.push(id);
            seen[s as usize] = context;
        }
        for (s, context) in seen.iter().enumerate() {
            let sample = &samples[slots[s] as usize];
            assert_eq!(*context, [&sample.prompt[..], &sample.responses[places[s] as usize].ids].concat());
        }
    }
}

#[test]
fn a_conversation_has_targets_in_its_assistant_turns_only() {
    let turns = TokenizedResponse {
        response_index: 0,
        ids: vec![11, 12, 13, 14, 15],
        is_target: Some(vec![true, true, false, false, true]),
    };
    let conversation =
        |prompt: &[i64]| TokenizedSample::new(0, prompt.to_vec(), vec![turns.clone()], Array2::zeros((0, 1)));
    for layout in LAYOUTS {
        let batch = batch_of(&[conversation(&[1, 2])], &[], layout);
        assert_eq!(integers(&batch.labels), [-100, -100, 11, 12, -100, -100, 15, -100]);
        assert_eq!(integers(&batch.target_positions), [1, 2, 5]);
        assert_eq!(integers(&batch.sequence_num_tokens), [3]);
        assert_eq!((batch.pi_target.size(), batch.lambda.size()), (vec![0, 1], vec![1, 0]));
        assert_eq!(batch.num_contributing, 0);
        // The first token of a row has no predictor, whatever the row before it holds.
        let batch = batch_of(&[conversation(&[1]), conversation(&[])], &[], layout);
        assert_eq!(integers(&batch.target_positions), [0, 1, 4, 8, 11]);
        assert_eq!(integers(&batch.labels)[8..], [-100, 12, -100, -100, 15, -100, -100, -100]);
    }
}

#[test]
fn empty_responses_and_batches_without_tokens_are_laid_out() {
    let mut samples = samples();
    samples[0].responses[1].ids.clear();
    let batch = batch_of(&samples, &LAMBDA, Layout::Packed);
    assert_eq!(integers(&batch.sequence_num_tokens), [2, 0, 3, 1, 2]);
    let empty = TokenizedSample::new(0, vec![], vec![response(0, &[])], Array2::zeros((0, 1)));
    for layout in LAYOUTS {
        let batch = batch_of(std::slice::from_ref(&empty), &[], layout);
        assert_eq!((batch.input_ids.size(), batch.target_ids.size()), (vec![1, 8], vec![0]));
    }
}

#[test]
fn the_loss_is_the_same_in_every_layout() {
    for seed in 0..6 {
        let mut rng = Rng(seed);
        let m = rng.between(1, 5);
        let samples = ragged_samples(&mut rng, 4, m, if seed < 3 { 0.0 } else { 0.3 });
        let lambda: Vec<f64> = (0..4).flat_map(|_| rng.lambda(m)).collect();
        let hidden = causal_hidden(&mut rng, &samples, Kind::Double);
        let lm_head = rng.tensor(&[VOCAB, HIDDEN], Kind::Double);
        let refs: Vec<_> = samples.iter().collect();
        let shared = CollateOptions { max_tokens: Some(50), ..collate_options(Layout::Packed) };
        let batches = LAYOUTS
            .map(|layout| (format!("{layout:?}"), batch_of(&samples, &lambda, layout)))
            .into_iter()
            .chain([("shared rows".to_owned(), collate(&refs, &lambda, &shared).unwrap())]);
        let mut expected: Option<(f64, Tensor, Tensor, Vec<Vec<f64>>)> = None;
        for (name, batch) in batches {
            let (loss, head, by_response, metrics) = evaluate(&batch, &hidden, &lm_head);
            let Some((expected_loss, expected_head, expected_hidden, expected_metrics)) = &expected else {
                expected = Some((loss, head, by_response, metrics));
                continue;
            };
            assert!(relative(loss, *expected_loss) < 1e-12, "{name}, seed {seed}");
            assert!(relative_error(&head, expected_head) < 1e-12, "{name}, seed {seed}");
            // Compared per prompt, because packed layouts sum the responses' gradients at the prompt's last position.
            assert!(relative_error(&by_response, expected_hidden) < 1e-12, "{name}, seed {seed}");
            for (a, b) in metrics.iter().flatten().zip(expected_metrics.iter().flatten()) {
                assert!((a - b).abs() < 1e-9, "{name}, seed {seed}");
            }
        }
    }
}

/// The loss, the gradient of the LM head, that of the hidden states summed over each prompt by position, and metrics.
fn evaluate(batch: &Batch, hidden: &Tensor, lm_head: &Tensor) -> (f64, Tensor, Tensor, Vec<Vec<f64>>) {
    let (c, p) = (hidden.size()[0], hidden.size()[1]);
    let spread_hidden = spread(hidden, batch);
    let inputs = LossInputs { hidden: Some(&spread_hidden), lm_head: Some(lm_head), ..loss_inputs(batch) };
    let (outputs, context) = loss_forward(&inputs, &loss_options(Reduction::Mean, WANTS_BOTH)).unwrap();
    let gradients = context.unwrap().backward(&inputs, 1.0).unwrap();
    let by_response = gather(&gradients.hidden.unwrap(), batch, c, p);
    let offsets = integers(&batch.prompt_offsets);
    let by_prompt: Vec<Tensor> = offsets
        .windows(2)
        .map(|pair| by_response.narrow(0, pair[0], pair[1] - pair[0]).sum_dim_intlist(0i64, false, Kind::Double))
        .collect();
    let listwise = outputs.preferences.unwrap();
    let metrics = [
        &listwise.prompt_losses,
        &listwise.dimension_losses,
        &listwise.accuracies,
        &listwise.dimension_accuracies,
        &listwise.margins,
    ];
    let metrics = metrics.iter().map(|metric| floats(metric)).collect();
    (outputs.loss.double_value(&[]), gradients.lm_head.unwrap(), Tensor::stack(&by_prompt, 0), metrics)
}

#[test]
fn bad_arguments_are_reported() {
    let refused = |samples: &[TokenizedSample], lambda: &[f64]| {
        collate(&samples.iter().collect::<Vec<_>>(), lambda, &collate_options(Layout::Rows)).unwrap_err().to_string()
    };
    assert_eq!(refused(&[], &[]), "a batch needs at least one sample, but none were given");
    assert_eq!(refused(&samples(), &[1.0]), "lambda has 1 numbers, but 2 samples of 2 dimensions need 4");
    assert_eq!(
        refused(&samples(), &[0.5, 0.5, f64::NAN, 1.0]),
        "lambda of record 9 is NaN at dimension 0, but it must be a finite number of at least 0"
    );
    assert_eq!(
        refused(&samples(), &[0.5, 0.5, 1.0, -1.0]),
        "lambda of record 9 is -1 at dimension 1, but it must be a finite number of at least 0"
    );
    let mut mixed = samples();
    mixed[1].pi_target = array![[0.5, 0.5]];
    assert_eq!(
        refused(&mixed, &LAMBDA),
        "record 9 has 1 dimensions, but record 7 of the same batch has 2: convert all with the same dimensions"
    );
    let mut short = samples();
    short[1].responses.pop();
    assert_eq!(refused(&short, &LAMBDA), "record 9 has 1 responses, but its pi_target has 2 columns");
    let options = CollateOptions { pad_to_multiple_of: 0, ..collate_options(Layout::Rows) };
    let samples = samples();
    assert_eq!(
        collate(&samples.iter().collect::<Vec<_>>(), &LAMBDA, &options).unwrap_err().to_string(),
        "pad_to_multiple_of is 0, but it must be at least 1"
    );
}
