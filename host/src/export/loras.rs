//! A λ-adapter as ordinary LoRAs in PEFT's format, for programs that weigh several adapters themselves.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::files::atomic;
use crate::model::{LoraPart, Model};

use super::ExportError;

/// Name of the file that says how the LoRAs are weighed.
pub const LAMBDA_FILE: &str = "lambda.json";
/// Folder of the part independent of λ.
pub const SHARED: &str = "shared";
/// What the folder of a dimension begins with whose name is no folder name.
const NUMBERED: &str = "dimension-";
/// What the names of PEFT's parameters of a LoRA begin with, which names of adapters may not be a part of.
const PEFT_PREFIX: &str = "lora_";
/// Longest name of a folder; file systems allow 255 bytes.
const MAX_NAME_BYTES: usize = 200;

/// Writes the λ-adapter of `model` into `out`: the folder `shared`, unless the rank of the shared part is 0, a folder for
/// each dimension, and `lambda.json`, which has their order and scales.
///
/// The sum of the LoRAs, `shared` at scale 1 and each dimension at its weight in λ, is the λ-adapter. `base_name` is the
/// base model's folder or hub name, for PEFT.
///
/// # Errors
///
/// Returns an [`ExportError`] if the model has no λ-adapter, or writing fails.
pub fn write(model: &Model, out: &Path, base_name: &str) -> Result<(), ExportError> {
    let parts = model.split_adapter()?;
    let names: Vec<String> = parts.dimensions.iter().map(|(name, _)| name.clone()).collect();
    let uniform = 1.0 / names.len() as f64;
    let entry = |folder: &str, dimension: Option<&str>, part: &LoraPart, scale: f64| json!({"folder": folder, "dimension": dimension, "rank": part.rank(), "uniform_scale": scale});
    let mut adapters: Vec<Value> = Vec::new();
    if let Some(shared) = &parts.shared {
        shared.save(&out.join(SHARED), base_name)?;
        adapters.push(entry(SHARED, None, shared, 1.0));
    }
    for (folder, (name, part)) in folders(&names).iter().zip(&parts.dimensions) {
        part.save(&out.join(folder), base_name)?;
        adapters.push(entry(folder, Some(name), part, uniform));
    }
    let description = json!({
        "scales": "the shared adapter at 1, that of a dimension at its weight in lambda; weights are at least 0 and sum to 1",
        "shared": parts.shared.as_ref().map(|_| SHARED),
        "dimensions": names,
        "adapters": adapters,
    });
    Ok(atomic::write(&out.join(LAMBDA_FILE), format!("{description:#}\n").as_bytes())?)
}

/// Returns a folder for each dimension: its name, if that is a safe name for a folder everywhere, else `dimension-` and
/// its number from 1.
///
/// Safe are letters, digits, `_` and `-`, beginning with a letter or digit; not `shared`, a numbered name, what differs
/// from another dimension only in case, or a part of `lora_`, which PEFT warns of because it may initialise an adapter of such a name again.
fn folders(names: &[String]) -> Vec<String> {
    let mut count: HashMap<String, usize> = HashMap::new();
    for name in names {
        *count.entry(name.to_lowercase()).or_default() += 1;
    }
    let is_safe = |name: &str| {
        let lower = name.to_lowercase();
        name.starts_with(char::is_alphanumeric)
            && name.chars().all(|character| character.is_alphanumeric() || matches!(character, '_' | '-'))
            && name.len() <= MAX_NAME_BYTES
            && lower != SHARED
            && !lower.starts_with(NUMBERED)
            && !PEFT_PREFIX.contains(&lower)
            && count[&lower] == 1
    };
    let folder =
        |(number, name): (usize, &String)| if is_safe(name) { name.clone() } else { format!("{NUMBERED}{number}") };
    (1..).zip(names).map(folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_folders(pairs: &[(&str, &str)]) {
        let names: Vec<String> = pairs.iter().map(|(name, _)| (*name).to_owned()).collect();
        let expected: Vec<&str> = pairs.iter().map(|(_, folder)| *folder).collect();
        assert_eq!(folders(&names), expected);
    }

    #[test]
    fn names_are_folders_if_they_can_be_everywhere() {
        assert_folders(&[("helpfulness", "helpfulness"), ("instruction_following", "instruction_following")]);
        assert_folders(&[("λ", "λ"), ("2-good", "2-good"), ("Ehrlichkeit", "Ehrlichkeit"), ("誠実", "誠実")]);
    }

    #[test]
    fn other_names_are_numbered() {
        assert_folders(&[("..", "dimension-1"), ("a/b", "dimension-2"), ("", "dimension-3"), ("ok", "ok")]);
        assert_folders(&[
            ("-rf", "dimension-1"),
            ("a b", "dimension-2"),
            ("a.b", "dimension-3"),
            ("a\0", "dimension-4"),
        ]);
        assert_folders(&[("shared", "dimension-1"), ("SHARED", "dimension-2"), ("lambda.json", "dimension-3")]);
        assert_folders(&[("Honesty", "dimension-1"), ("honesty", "dimension-2"), ("honest", "honest")]);
        assert_folders(&[("dimension-2", "dimension-1"), ("a b", "dimension-2")]);
        assert_folders(&[("a", "dimension-1"), ("LoRA", "dimension-2"), ("b", "b"), ("ab", "ab")]);
        assert_folders(&[("e\u{301}", "dimension-1"), (&"x".repeat(201), "dimension-2")]);
    }
}
