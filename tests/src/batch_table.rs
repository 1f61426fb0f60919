//! A batch as a table that a person can check by eye.
//!
//! Each token of a row has a line with every field that belongs to a token; the tokens it attends to follow from
//! `prompt_ids` and `sequence_ids` by the rule that the ABI states. Rows that differ only in the sequence they hold are
//! shown once. Ids that mean "none" are shown as a dash.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write;

use lambda_dpo_core::{Batch, Layout, Tokenizer};
use tch::{Kind, Tensor};

const IGNORED: i64 = -100;

fn integers(tensor: &Tensor) -> Vec<i64> {
    assert_eq!(tensor.kind(), Kind::Int64);
    Vec::<i64>::try_from(tensor.reshape([-1])).unwrap()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.kind(), Kind::Float);
    Vec::<f32>::try_from(tensor.reshape([-1])).unwrap()
}

fn rows(tensor: &Tensor) -> Vec<Vec<i64>> {
    let width = tensor.size()[1] as usize;
    integers(tensor).chunks(width).map(<[i64]>::to_vec).collect()
}

/// A number, or a dash if it is the one that means "none".
fn or_dash(value: i64, none: i64) -> String {
    if value == none { "-".to_owned() } else { value.to_string() }
}

/// Writes `0 1 2 5` as `0-2 5`.
fn ranges(positions: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &position in positions {
        match runs.last_mut() {
            Some((_, end)) if *end + 1 == position => *end = position,
            _ => runs.push((position, position)),
        }
    }
    let run = |&(start, end): &(usize, usize)| if start == end { start.to_string() } else { format!("{start}-{end}") };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

/// Renders every field of a batch.
pub fn render(batch: &Batch, layout: Layout, tokenizer: &Tokenizer) -> String {
    let mut text = String::new();
    let (size, count) = (batch.input_ids.size(), |tensor: &Tensor| tensor.size()[0]);
    writeln!(
        text,
        "{layout:?}: {} rows of {} tokens, {} sequences, {} targets; {} prompts, of which {} contribute",
        size[0],
        size[1],
        count(&batch.sequence_num_tokens),
        count(&batch.target_ids),
        count(&batch.record_indices),
        batch.num_contributing,
    )
    .unwrap();
    tokens(&mut text, batch, tokenizer);
    targets(&mut text, batch, tokenizer);
    sequences(&mut text, batch);
    distributions(&mut text, batch);
    text
}

fn tokens(text: &mut String, batch: &Batch, tokenizer: &Tokenizer) {
    let (ids, mask) = (rows(&batch.input_ids), rows(&batch.attention_mask));
    let (positions, labels) = (rows(&batch.position_ids), rows(&batch.labels));
    let (prompts, sequences) = (rows(&batch.prompt_ids), rows(&batch.sequence_ids));
    // Tables that are equal once each row's sequences are counted from 0, with the rows that have them.
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for row in 0..ids.len() {
        let own: Vec<i64> = {
            let mut own: Vec<i64> = sequences[row].iter().copied().filter(|s| *s >= 0).collect();
            own.dedup();
            own
        };
        let name = |s: i64| own.iter().position(|other| *other == s).map_or("-".to_owned(), letter);
        let mut lines: Vec<[String; 7]> = Vec::new();
        let mut places: Vec<(usize, usize)> = Vec::new();
        for at in 0..ids[row].len() {
            let seen: Vec<usize> = (0..=at)
                .filter(|&other| {
                    prompts[row][other] == prompts[row][at]
                        && (other == at || [sequences[row][at], -1].contains(&sequences[row][other]))
                })
                .collect();
            let padding = mask[row][at] == 0;
            let line = [
                tokenizer.decode(&[ids[row][at]], false).unwrap(),
                ids[row][at].to_string(),
                mask[row][at].to_string(),
                format!("{:>2} {:>6}", positions[row][at], or_dash(prompts[row][at], -1)),
                name(sequences[row][at]),
                or_dash(labels[row][at], IGNORED),
                if padding { "nothing".to_owned() } else { ranges(&seen) },
            ];
            match (lines.last(), places.last_mut()) {
                (Some(last), Some(place)) if padding && *last == line => place.1 = at,
                _ => {
                    lines.push(line);
                    places.push((at, at));
                }
            }
        }
        let mut table = String::from("   at  token        id  mask  pos prompt  sequence  label  attends to\n");
        for (line, (from, to)) in lines.iter().zip(&places) {
            let at = if from == to { from.to_string() } else { format!("{from}-{to}") };
            let [token, id, mask, place, sequence, label, seen] = line;
            writeln!(table, "{at:>5}  {token:<11} {id:>3}  {mask:>4}   {place}  {sequence:>8}  {label:>5}  {seen}")
                .unwrap();
        }
        let heading = format!("row {row} with {}", {
            let named = own.iter().enumerate().map(|(at, s)| format!("{} = sequence {s}", letter(at)));
            named.collect::<Vec<_>>().join(", ")
        });
        match tables.iter_mut().find(|(other, _)| *other == table) {
            Some((_, headings)) => headings.push(heading),
            None => tables.push((table, vec![heading])),
        }
    }
    for (table, headings) in tables {
        write!(text, "\n{}:\n{table}", headings.join("\n")).unwrap();
    }
}

fn letter(at: usize) -> String {
    char::from(b'a' + at as u8).to_string()
}

fn targets(text: &mut String, batch: &Batch, tokenizer: &Tokenizer) {
    let width = batch.input_ids.size()[1];
    text.push_str("\ntarget  predicts     id  from row  at  sequence\n");
    let (positions, ids) = (integers(&batch.target_positions), integers(&batch.target_ids));
    for (k, sequence) in integers(&batch.target_sequences).into_iter().enumerate() {
        let token = tokenizer.decode(&[ids[k]], false).unwrap();
        let (row, at) = (positions[k] / width, positions[k] % width);
        writeln!(text, "{k:>6}  {token:<11} {:>3}  {row:>8}  {at:>2}  {sequence:>8}", ids[k]).unwrap();
    }
}

fn sequences(text: &mut String, batch: &Batch) {
    text.push_str("\nsequence  prompt  response  tokens\n");
    let (prompts, responses) = (integers(&batch.sequence_prompts), integers(&batch.sequence_responses));
    for (s, tokens) in integers(&batch.sequence_num_tokens).into_iter().enumerate() {
        writeln!(text, "{s:>8}  {:>6}  {:>8}  {tokens:>6}", prompts[s], responses[s]).unwrap();
    }
}

fn distributions(text: &mut String, batch: &Batch) {
    let (offsets, records) = (integers(&batch.prompt_offsets), integers(&batch.record_indices));
    let (m, c) = (batch.pi_target.size()[0] as usize, batch.pi_target.size()[1] as usize);
    let (index, pi) = (integers(&batch.sequence_index), floats(&batch.pi_target));
    let ranks = integers(&batch.ranks);
    let mask = Vec::<bool>::try_from(batch.target_mask.reshape([-1])).unwrap();
    let lambda = floats(&batch.lambda);
    text.push_str(
        "\nprompt  record  responses  dimension  lambda  target and rank by sequence (a masked one is a dash)\n",
    );
    for (b, record) in records.iter().enumerate() {
        let columns = offsets[b] as usize..offsets[b + 1] as usize;
        for k in 0..m {
            let target = columns.clone().map(|column| {
                let at = k * c + column;
                assert!(mask[at] || pi[at] == 0.0, "a masked target must be 0");
                assert_eq!(mask[at], ranks[at] > 0, "what is masked, and nothing else, has no rank");
                let value = if mask[at] { format!("{:.4} #{}", pi[at], ranks[at]) } else { "-".to_owned() };
                format!("{}: {value}", index[at])
            });
            let target = target.collect::<Vec<_>>().join("  ");
            let columns = format!("{}-{}", columns.start, columns.end - 1);
            let weight = lambda[b * m + k];
            writeln!(text, "{b:>6}  {record:>6}  {columns:>9}  {k:>9}  {weight:>6.4}  {target}").unwrap();
        }
    }
}
