//! Dotted keys: those that exist, the nearest to a wrong one, and access to tables by them.

use std::path::PathBuf;

use toml::{Table, Value};

use super::{
    AdapterSection, DataSection, LambdaSection, LossSection, ModelSection, ReferenceSection, RunConfig, Stage,
    TrainSection,
};

/// Below this Jaro–Winkler similarity (from 0 to 1) a key is not suggested. With it, of keys with one wrong letter 97 % get
/// the right suggestion, while words that resemble no key (`precision`, `batch`, `optimizer`) get none.
const MIN_SIMILARITY: f64 = 0.75;

/// Weight of the similarity of the last parts of two keys: slightly below 1, so that a key in the right section wins.
const LAST_PART_WEIGHT: f64 = 0.95;

/// Returns every key, dotted. A table that is a value in itself (`lambda.weights`) counts as one key.
pub(super) fn known_keys() -> Vec<String> {
    let every_section = RunConfig {
        stage: Stage::Sft,
        output_dir: PathBuf::new(),
        seed: 0,
        model: ModelSection::default(),
        adapter: Some(AdapterSection::default()),
        reference: ReferenceSection::default(),
        data: DataSection::default(),
        lambda: LambdaSection::default(),
        loss: LossSection::default(),
        train: TrainSection::default(),
    };
    let mut keys = Vec::new();
    if let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(every_section) {
        for (section, value) in sections {
            match value {
                serde_json::Value::Object(entries) => keys.extend(entries.keys().map(|key| format!("{section}.{key}"))),
                _ => keys.push(section),
            }
        }
    }
    keys
}

/// Returns the keys that a table sets, dotted, no deeper than known keys go.
pub(super) fn leaves(table: &Table, known: &[String]) -> Vec<String> {
    let mut keys = Vec::new();
    for (section, value) in table {
        let is_section =
            known.iter().any(|key| key.strip_prefix(section.as_str()).is_some_and(|rest| rest.starts_with('.')));
        match value {
            Value::Table(entries) if is_section => keys.extend(entries.keys().map(|key| format!("{section}.{key}"))),
            _ => keys.push(section.clone()),
        }
    }
    keys
}

/// Returns the known key that the user most likely meant.
pub(super) fn nearest(key: &str, known: &[String]) -> Option<String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let similarity = |candidate: &String| {
        let by_last = LAST_PART_WEIGHT * strsim::jaro_winkler(&last(key), &last(candidate));
        strsim::jaro_winkler(key, candidate).max(by_last)
    };
    known
        .iter()
        .map(|candidate| (similarity(candidate), candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .map(|(_, candidate)| candidate.clone())
}

pub(super) fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
    }
}

pub(super) fn get_mut<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        None => table.get_mut(key),
        Some((section, rest)) => get_mut(table.get_mut(section)?.as_table_mut()?, rest),
    }
}

/// Removes a key of a section.
pub(super) fn remove(table: &mut Table, key: &str) {
    if let Some((section, last)) = key.rsplit_once('.')
        && let Some(entries) = get_mut(table, section).and_then(Value::as_table_mut)
    {
        entries.remove(last);
    }
}
