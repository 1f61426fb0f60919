#![expect(clippy::unwrap_used, reason = "tests")]

use super::super::mask::{distances, visible};
use super::*;
use crate::model::inputs::ModelInputs;

/// Lengths of prompts with their responses, and of the padding.
type Row<'a> = (&'a [(i64, &'a [i64])], i64);

/// Prompt ids, sequence ids and positions of the tokens.
fn ids(rows: &[Row]) -> [Tensor; 3] {
    let [mut prompts, mut sequences, mut positions] = [const { Vec::<i64>::new() }; 3];
    let (mut next_prompt, mut next_sequence) = (0, 0);
    let mut part = |prompt: i64, sequence: i64, start: i64, length: i64| {
        prompts.extend(vec![prompt; length as usize]);
        sequences.extend(vec![sequence; length as usize]);
        positions.extend(start..start + length);
    };
    for (prompts_of_row, padding) in rows {
        for (length, responses) in *prompts_of_row {
            part(next_prompt, -1, 0, *length);
            for response in *responses {
                part(next_prompt, next_sequence, *length, *response);
                next_sequence += 1;
            }
            next_prompt += 1;
        }
        part(-1, -1, 0, *padding);
    }
    [prompts, sequences, positions].map(|ids| Tensor::from_slice(&ids).view([rows.len() as i64, -1]))
}

fn read(ids: &[Tensor; 3]) -> Option<Vec<PackedRow>> {
    let [prompts, sequences, positions] = ids.each_ref().map(|ids| Vec::<Vec<i64>>::try_from(ids).unwrap());
    let rows = prompts.iter().zip(&sequences).zip(&positions);
    rows.map(|((prompts, sequences), positions)| PackedRow::read(prompts, sequences, positions)).collect()
}

fn sdpa(query: &Tensor, key: &Tensor, value: &Tensor, mask: Option<&Tensor>) -> Result<Tensor, ModelError> {
    Ok(Tensor::f_scaled_dot_product_attention(query, key, value, mask, 0.0, mask.is_none(), None, true)?)
}

/// Largest difference between attention by segments and under one mask, over values and all gradients.
fn difference(ids: &[Tensor; 3], window: Option<i64>, kind: Kind) -> f64 {
    tch::manual_seed(11);
    let options = (kind, Device::Cpu);
    let [prompt_ids, sequence_ids, position_ids] = ids;
    let inputs = ModelInputs { input_ids: prompt_ids, position_ids, prompt_ids, sequence_ids, lambda: None };
    let (num_rows, num_tokens) = prompt_ids.size2().unwrap();
    let mut visible = visible(&inputs, Device::Cpu).unwrap();
    if let Some(window) = window {
        visible = visible.logical_and(&distances(position_ids, Device::Cpu).unwrap().lt(window));
    }
    let whole = additive(&visible, kind).unwrap();
    let segments = Segments::new(&read(ids).unwrap(), window, options).unwrap();

    let leaf = |heads: i64| Tensor::randn([num_rows, heads, num_tokens, 8], options).set_requires_grad(true);
    let leaves = [leaf(4), leaf(2), leaf(2)];
    let [query, key, value] = &leaves;
    let counts = prompt_ids.ne(-1).unsqueeze(1).unsqueeze(-1).to_kind(kind); // [R, 1, T, 1]
    let weights = Tensor::randn(query.size(), options) * &counts;
    let mut found = Vec::new();
    for by_segments in [true, false] {
        let attended = if by_segments {
            segments.attend(query, key, value, sdpa).unwrap()
        } else {
            sdpa(query, key, value, Some(&whole)).unwrap()
        };
        let gradients = Tensor::run_backward(&[(&attended * &weights).sum(kind)], &leaves, false, false);
        found.push(std::iter::once(attended * &counts).chain(gradients).collect::<Vec<_>>());
    }
    let differences = found[0].iter().zip(&found[1]).map(|(one, other)| (one - other).abs().max().double_value(&[]));
    differences.fold(0.0, f64::max)
}

#[test]
fn segments_equal_one_mask() {
    let batches: [&[Row]; 5] = [
        &[(&[(20, &[9, 31, 4, 17])], 0)],
        &[(&[(7, &[5, 6]), (12, &[3])], 3), (&[(1, &[1, 2, 3, 4, 19])], 6)],
        &[(&[(33, &[])], 2)],
        &[(&[(0, &[4, 5])], 1)],
        &[(&[(70, &[130, 100])], 4), (&[(150, &[20, 60]), (60, &[10])], 4)],
    ];
    for rows in batches {
        let ids = ids(rows);
        for window in [None, Some(1), Some(6), Some(25)] {
            let in_float64 = difference(&ids, window, Kind::Double);
            assert!(in_float64 < 1e-12, "{rows:?}, window {window:?}: {in_float64:e}");
            let in_float32 = difference(&ids, window, Kind::Float);
            assert!(in_float32 < 5e-5, "{rows:?}, window {window:?}: {in_float32:e}");
        }
    }
}

#[test]
fn rows_are_read_as_the_collator_packs_them() {
    let rows = read(&ids(&[(&[(3, &[2, 1]), (1, &[4])], 2)])).unwrap();
    assert_eq!(rows[0].lengths().collect::<Vec<_>>(), [3, 2, 1, 1, 4, 2]);
    let wrong: [(&str, [&[i64]; 3]); 6] = [
        ("padding at the left", [&[-1, 0, 0], &[-1, -1, 0], &[0, 0, 1]]),
        ("a prompt in two places", [&[0, 1, 0], &[-1, -1, 5], &[0, 0, 1]]),
        ("a response in two places", [&[0, 0, 0, 0], &[-1, 1, 2, 1], &[0, 1, 1, 2]]),
        ("a prompt's token after a response", [&[0, 0, 0], &[-1, 1, -1], &[0, 1, 1]]),
        ("a response whose positions do not continue the prompt's", [&[0, 0, 0], &[-1, 1, 2], &[0, 1, 2]]),
        ("a prompt that does not begin at 0", [&[0, 0], &[-1, -1], &[3, 4]]),
    ];
    for (what, [prompts, sequences, positions]) in wrong {
        assert_eq!(PackedRow::read(prompts, sequences, positions), None, "{what}");
    }
}

#[test]
fn segments_are_for_long_rows() {
    let pays = |rows: &[Row], device| {
        let ids = ids(rows);
        super::pays(&read(&ids).unwrap(), ids[0].size2().unwrap().1, device)
    };
    let long: &[Row] = &[(&[(200, &[150, 240, 310, 380])], 0)];
    assert!(pays(long, Device::Cpu));
    assert!(!pays(long, Device::Cuda(0)), "kernels of this size finish before the next is launched");
    assert!(!pays(&[(&[(20, &[9, 31, 4, 17])], 0)], Device::Cpu), "that many calls cost more than the mask");
    let huge: &[Row] = &[(&[(1000, &[1500, 1500, 1500, 1500])], 0)];
    assert!(pays(huge, Device::Cuda(0)));
}
