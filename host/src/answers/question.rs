//! Prompts, read from a file.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

use crate::files::git_lfs::refuse_pointer;
use crate::plugin::Message;

/// A prompt to answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Everything that the file says about it.
    pub fields: Map<String, Value>,
    /// The conversation up to the first answer; its last turn is the user's.
    pub messages: Vec<Message>,
    /// What the user says after each answer.
    pub follow_ups: Vec<String>,
}

/// Reads prompts: JSON lines, or a JSON array, of objects with one of
///
/// - `prompt`: text, or messages;
/// - `messages`;
/// - `instruction` (AlpacaEval), to which `input` is appended where it is not empty;
/// - `turns` (MT-Bench): what the user says, turn by turn.
///
/// # Errors
///
/// Returns an error that names the file and the entry if one has none of these or several of them, or if the file has no
/// entry.
pub fn read(file: &Path) -> Result<Vec<Question>> {
    let questions = read_entries(file, question)?;
    ensure!(!questions.is_empty(), "{} has no prompts", file.display());
    Ok(questions)
}

/// Reads the entries of a file, JSON lines or a JSON array.
///
/// # Errors
///
/// Returns an error that names the file and the entry if one is not valid JSON, or is refused by `parse`.
pub fn read_entries<T>(file: &Path, parse: impl Fn(Value) -> Result<T>) -> Result<Vec<T>> {
    refuse_pointer(file)?;
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('[') {
        let entries: Vec<Value> =
            serde_json::from_str(text).map_err(|error| anyhow!("{} is not valid JSON: {error}", file.display()))?;
        let parse =
            |(index, entry)| parse(entry).map_err(|error| anyhow!("{}, entry {index}: {error}", file.display()));
        (0..).zip(entries).map(parse).collect()
    } else {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let parse_line = |(number, line): (usize, &str)| {
            let entry = serde_json::from_str(line).map_err(|error| anyhow!("not valid JSON: {error}"));
            entry.and_then(&parse).map_err(|error| anyhow!("{}, line {number}: {error}", file.display()))
        };
        lines.map(parse_line).collect()
    }
}

/// Reads a prompt, in one of the forms that [`read`] lists.
///
/// # Errors
///
/// Returns an error if the entry is no object, or has none of the forms or several.
pub fn question(entry: Value) -> Result<Question> {
    let Value::Object(fields) = entry else { bail!("a prompt must be an object, found {entry}") };
    let given: Vec<&str> = ["prompt", "messages", "instruction", "turns"]
        .into_iter()
        .filter(|name| fields.get(*name).is_some_and(|value| !value.is_null()))
        .collect();
    let [name] = given.as_slice() else {
        bail!(match given.as_slice() {
            [] => "there is no prompt: give one of `prompt`, `messages`, `instruction`, `turns`".to_owned(),
            _ => format!("`{}` are prompts: give one of them", given.join("` and `")),
        });
    };
    let value = &fields[*name];
    let (messages, follow_ups) = match (*name, value) {
        ("prompt", Value::String(text)) => (vec![Message::new("user", text)], Vec::new()),
        ("prompt" | "messages", Value::Array(_)) => (messages(name, value)?, Vec::new()),
        ("instruction", Value::String(text)) => {
            let input = fields.get("input").and_then(Value::as_str).unwrap_or_default();
            let text = if input.is_empty() { text.clone() } else { format!("{text}\n\n{input}") };
            (vec![Message::new("user", text)], Vec::new())
        }
        ("turns", Value::Array(turns)) => {
            let mut turns = turns.iter().map(turn).collect::<Result<Vec<String>>>()?.into_iter();
            let first = turns.next().context("`turns` is empty")?;
            (vec![Message::new("user", first)], turns.collect())
        }
        _ => bail!("`{name}` must be text{}, found {value}", if *name == "instruction" { "" } else { " or a list" }),
    };
    Ok(Question { fields, messages, follow_ups })
}

fn messages(name: &str, value: &Value) -> Result<Vec<Message>> {
    let messages: Vec<Message> =
        serde_json::from_value(value.clone()).map_err(|error| anyhow!("`{name}` is no list of messages: {error}"))?;
    let last = messages.last().with_context(|| format!("`{name}` is empty"))?;
    ensure!(last.role != "assistant", "the last of `{name}` is the assistant's: there is nothing to answer");
    Ok(messages)
}

/// Reads a turn of MT-Bench: text, or an object with the text in `content`.
fn turn(value: &Value) -> Result<String> {
    let text = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    text.map(str::to_owned).with_context(|| format!("a turn must be text, found {value}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn read_text(text: &str) -> Result<Vec<Question>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("prompts.jsonl");
        std::fs::write(&file, text).unwrap();
        read(&file).map_err(|error| anyhow!(error.to_string().replace(&*folder.path().to_string_lossy(), "")))
    }

    #[test]
    fn prompts_come_in_several_forms() {
        let found = read_text(
            "{\"prompt\": \"A\", \"id\": 3}\n\n{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \
             \"content\": \"B\"}]}\n{\"instruction\": \"C\", \"input\": \"D\"}\n{\"question_id\": 81, \"turns\": [\"E\", {\"content\": \
             \"F\"}]}\n",
        )
        .unwrap();
        let user = |text: &str| Message::new("user", text);
        assert_eq!(found[0].messages, [user("A")]);
        assert_eq!(found[0].fields["id"], 3);
        assert_eq!(found[1].messages, [Message::new("system", "S"), user("B")]);
        assert_eq!(found[2].messages, [user("C\n\nD")]);
        assert_eq!(
            (found[3].messages.as_slice(), found[3].follow_ups.as_slice()),
            (&[user("E")][..], &["F".to_owned()][..])
        );
        let array =
            read_text("[{\"prompt\": \"A\"}, {\"prompt\": [{\"role\": \"user\", \"content\": \"B\"}]}]").unwrap();
        assert_eq!(array[1].messages, [user("B")]);
    }

    #[test]
    fn what_is_no_prompt_is_refused_by_file_and_line() {
        for (text, expected) in [
            ("", "/prompts.jsonl has no prompts"),
            (
                "{\"prompt\": \"A\"}\n{\"text\": \"B\"}",
                "/prompts.jsonl, line 2: there is no prompt: give one of `prompt`, `messages`, `instruction`, `turns`",
            ),
            (
                "{\"prompt\": \"A\", \"turns\": [\"B\"]}",
                "/prompts.jsonl, line 1: `prompt` and `turns` are prompts: give one of them",
            ),
            ("[{\"prompt\": 3}]", "/prompts.jsonl, entry 0: `prompt` must be text or a list, found 3"),
            ("{\"messages\": []}", "/prompts.jsonl, line 1: `messages` is empty"),
            (
                "{\"messages\": [{\"role\": \"assistant\", \"content\": \"B\"}]}",
                "/prompts.jsonl, line 1: the last of `messages` is the assistant's: there is nothing to answer",
            ),
            ("{\"turns\": []}", "/prompts.jsonl, line 1: `turns` is empty"),
            ("{\"turns\": [4]}", "/prompts.jsonl, line 1: a turn must be text, found 4"),
            ("[\"A\"]", "/prompts.jsonl, entry 0: a prompt must be an object, found \"A\""),
        ] {
            assert_eq!(read_text(text).unwrap_err().to_string(), expected);
        }
        assert!(
            read_text("{\"prompt\"").unwrap_err().to_string().starts_with("/prompts.jsonl, line 1: not valid JSON: ")
        );
    }
}
