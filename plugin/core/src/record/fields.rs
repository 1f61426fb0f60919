//! The fields of a record by name: those that are read, and those that would change what is trained, which are refused.
//!
//! Every other field is left alone, and the report names it.

use serde_json::{Map, Value};

use super::json::is_nan;
use super::types::{is_set, switch};

/// Names under which datasets hold a system prompt.
pub(super) const SYSTEM: &[&str] =
    &["system", "system_prompt", "system_message", "system_instruction", "systemprompt", "sys_prompt"];

/// Fields that some format reads.
const READ: &[&str] = &[
    "instruction",
    "prompt",
    "completions",
    "source",
    "metadata",
    "chosen",
    "rejected",
    "messages",
    "conversations",
    "responses",
    "rankings",
    "tools",
];

/// Fields whose values would have to reach the model or the loss and do not, with the way out.
const REFUSED: &[(&str, &str)] = &[
    ("image", ONLY_TEXT),
    ("images", ONLY_TEXT),
    ("video", ONLY_TEXT),
    ("videos", ONLY_TEXT),
    ("audio", ONLY_TEXT),
    ("audios", ONLY_TEXT),
    ("functions", "rename it to `tools`, in the form that the chat template expects"),
    ("chat_template_kwargs", "set what it says in the template itself (data.chat_template), and remove the field"),
    ("loss_mask", WEIGH_TURNS),
    ("mask", WEIGH_TURNS),
];
const ONLY_TEXT: &str = "only text is trained on: leave such records out, or remove the field";
const WEIGH_TURNS: &str =
    "it would change which tokens are targets: give assistant turns a `weight` of 0 or 1 instead, or remove the field";

/// Weights of whole records. A weight of 1 changes nothing.
const WEIGHTS: &[&str] = &["weight", "loss_weight", "sample_weight"];

/// Parts of a prompt that Alpaca's records hold beside it.
const BESIDE_A_TEXT: &[(&str, &str)] =
    &[("input", "append it to the prompt"), ("history", "write the conversation as a list of {role, content} objects")];

/// Whether a column of this name can matter to a record.
pub(super) fn is_known(name: &str) -> bool {
    READ.contains(&name)
        || SYSTEM.contains(&name)
        || WEIGHTS.contains(&name)
        || REFUSED.iter().chain(BESIDE_A_TEXT).any(|(refused, _)| *refused == name)
}

/// Returns the field's value unless it says nothing: it is null, NaN, or an empty text or list.
pub(super) fn set<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| is_set(value) && !is_nan(value))
}

/// Fails if the record has a field that would change what is trained.
pub(super) fn refuse(row: &Map<String, Value>) -> Result<(), String> {
    for (name, way_out) in REFUSED {
        if set(row, name).is_some() {
            return Err(format!("`{name}` is not supported; {way_out}"));
        }
    }
    for name in WEIGHTS {
        if let Some(weight) = set(row, name)
            && switch(weight) != Some(true)
        {
            return Err(format!(
                "`{name}` is {weight}, but all records weigh the same: leave records out, repeat them, or remove the field"
            ));
        }
    }
    Ok(())
}

/// Fails if the record has a part of the prompt beside its `prompt` or `instruction` (`field`).
pub(super) fn refuse_beside(row: &Map<String, Value>, field: &str) -> Result<(), String> {
    match BESIDE_A_TEXT.iter().find(|(name, _)| set(row, name).is_some()) {
        Some((name, way_out)) => {
            Err(format!("`{name}` beside `{field}` is not supported; {way_out}, and remove the field"))
        }
        None => Ok(()),
    }
}
