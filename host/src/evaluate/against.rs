//! Answers of another model, to compare with.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value};

use crate::answers::Question;
use crate::answers::question::{question, read_entries};
use crate::files::regular;
use crate::plugin::Message;

/// File of the answers in an evaluation's folder.
pub const ANSWERS: &str = "answers.jsonl";

/// Reads `num_samples` answers to each question: from an evaluation's folder, or from a file of JSON lines as
/// `generate --prompts` writes them, or in AlpacaEval's form.
///
/// A question's answers are found by its conversation, wherever they are in the file; questions that are alike take
/// answers one after the other. Answers to other prompts, and more samples than asked for, are left out.
///
/// # Errors
///
/// Returns an error that names the file and the line or prompt if the file cannot be read, an entry is no answer to a
/// prompt of one turn, or a question has too few answers.
pub fn read(path: &Path, questions: &[Question], num_samples: usize) -> Result<Vec<Vec<String>>> {
    let file = if path.is_dir() { path.join(ANSWERS) } else { path.to_path_buf() };
    ensure!(
        regular::is_there(&file),
        "{} does not exist: --against takes an evaluation's folder, or a file that `generate --prompts` wrote",
        file.display()
    );
    if path.is_dir() {
        regular::open(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    }
    let entries = read_entries(&file, answer)?;
    ensure!(!entries.is_empty(), "{} has no answers", file.display());
    let mut answers = HashMap::<String, VecDeque<String>>::new();
    for (messages, response) in entries {
        answers.entry(key(&messages)?).or_default().push_back(response);
    }
    let keys = questions.iter().map(|question| key(&question.messages)).collect::<Result<Vec<_>>>()?;
    if !keys.iter().any(|key| answers.contains_key(key)) {
        bail!(
            "{} answers none of the {} prompts, of which the first is {}: compare with answers to the same prompts",
            file.display(),
            questions.len(),
            questions.first().map_or_else(String::new, |question| quote(&question.messages))
        );
    }
    let mut found = Vec::with_capacity(questions.len());
    for (index, (key, question)) in keys.iter().zip(questions).enumerate() {
        let queue = answers.get_mut(key).map(|queue| queue.drain(..num_samples.min(queue.len())));
        let responses: Vec<String> = queue.into_iter().flatten().collect();
        let (num_found, prompt) = (responses.len(), quote(&question.messages));
        match num_found {
            0 => bail!(
                "{} has no answer to prompt {index}, {prompt}: compare with answers to the same prompts",
                file.display()
            ),
            _ if num_found < num_samples => bail!(
                "{} has {num_found} of {num_samples} answers to prompt {index}, {prompt}: pass --num-samples {num_found}, or \
                 compare with more",
                file.display()
            ),
            _ => found.push(responses),
        }
    }
    Ok(found)
}

/// Reads the conversation and the answer of an entry.
fn answer(entry: Value) -> Result<(Vec<Message>, String)> {
    let question = question(entry)?;
    let response = response(&question.fields)?;
    Ok((question.messages, response))
}

fn response(fields: &Map<String, Value>) -> Result<String> {
    ensure!(
        fields.get("responses").is_none_or(Value::is_null),
        "`responses` answer several turns: answers to one are compared, which `response` holds"
    );
    let value = ["response", "output"].iter().find_map(|name| fields.get(*name));
    let value = value.context("there is no answer: `response` (or `output`, as in AlpacaEval) must hold it")?;
    let text = value.as_str().with_context(|| format!("the answer must be text, found {value}"))?;
    Ok(text.to_owned())
}

/// Returns a text that is the same for equal conversations only.
fn key(messages: &[Message]) -> Result<String> {
    serde_json::to_string(messages).context("a conversation cannot be written as JSON")
}

/// Returns the beginning of a conversation's last turn.
fn quote(messages: &[Message]) -> String {
    const NUM_CHARACTERS: usize = 40;
    let text = messages.last().and_then(|message| message.content.as_deref()).unwrap_or_default();
    let start: String = text.chars().take(NUM_CHARACTERS).collect();
    format!("{:?}{}", start, if start.len() < text.len() { "…" } else { "" })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn questions(prompts: &[&str]) -> Vec<Question> {
        prompts.iter().map(|text| question(json!({ "prompt": text })).unwrap()).collect()
    }

    /// Reads answers of a folder with this `answers.jsonl`, and removes the folder's name from the error.
    fn read_text(text: &str, prompts: &[&str], num_samples: usize) -> Result<Vec<Vec<String>>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ANSWERS), text).unwrap();
        let found = read(folder.path(), &questions(prompts), num_samples);
        found.map_err(|error| format!("{error:#}").replace(&*folder.path().to_string_lossy(), "DIR"))
    }

    fn lines(entries: &[Value]) -> String {
        entries.iter().map(|entry| format!("{entry}\n")).collect()
    }

    #[test]
    fn answers_are_found_by_their_prompts() {
        let text = lines(&[
            json!({"prompt": "B", "response": "b0", "sample": 0, "against": {"response": "no"}}),
            json!({"prompt": [{"role": "user", "content": "A"}], "response": "a0"}),
            json!({"messages": [{"role": "user", "content": "A"}], "response": "a1"}),
            json!({"instruction": "B", "output": "b1"}),
            json!({"prompt": "A", "output": "no", "response": "a2"}),
            json!({"prompt": "C", "response": "c0"}),
        ]);
        assert_eq!(read_text(&text, &["A", "B"], 2).unwrap(), [["a0", "a1"], ["b0", "b1"]]);
        // Prompts that are alike take answers in order.
        assert_eq!(read_text(&text, &["A", "C", "A"], 1).unwrap(), [["a0"], ["c0"], ["a1"]]);
        let system =
            question(json!({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]}));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("others.json");
        std::fs::write(&file, json!([{"instruction": "A", "output": "a"}]).to_string()).unwrap();
        assert_eq!(read(&file, &questions(&["A"]), 1).unwrap(), [["a"]]);
        assert!(read(&file, &[system.unwrap()], 1).is_err(), "the same last turn of another conversation");
    }

    #[test]
    fn answers_that_do_not_match_are_refused() {
        let one = lines(&[json!({"prompt": "A", "response": "a"}), json!({"prompt": "B", "response": "b"})]);
        let long = "x".repeat(41);
        for (text, prompts, num_samples, expected) in [
            ("", &["A"][..], 1, "DIR/answers.jsonl has no answers"),
            (
                &one,
                &["C", "D"],
                1,
                "DIR/answers.jsonl answers none of the 2 prompts, of which the first is \"C\": compare with answers to the \
                 same prompts",
            ),
            (
                &one,
                &["A", &long],
                1,
                &format!(
                    "DIR/answers.jsonl has no answer to prompt 1, \"{}\"…: compare with answers to the same prompts",
                    "x".repeat(40)
                ),
            ),
            (
                &one,
                &["A"],
                3,
                "DIR/answers.jsonl has 1 of 3 answers to prompt 0, \"A\": pass --num-samples 1, or compare with more",
            ),
            (
                &one,
                &["A", "A"],
                1,
                "DIR/answers.jsonl has no answer to prompt 1, \"A\": compare with answers to the same prompts",
            ),
            (
                "{\"prompt\": \"A\"}",
                &["A"],
                1,
                "DIR/answers.jsonl, line 1: there is no answer: `response` (or `output`, as in AlpacaEval) must hold it",
            ),
            (
                "{\"prompt\": \"A\", \"response\": 3}",
                &["A"],
                1,
                "DIR/answers.jsonl, line 1: the answer must be text, found 3",
            ),
            (
                "{\"turns\": [\"A\", \"B\"], \"responses\": [\"a\", \"b\"]}",
                &["A"],
                1,
                "DIR/answers.jsonl, line 1: `responses` answer several turns: answers to one are compared, which `response` \
                 holds",
            ),
            (
                "{\"response\": \"a\"}",
                &["A"],
                1,
                "DIR/answers.jsonl, line 1: there is no prompt: give one of `prompt`, `messages`, `instruction`, `turns`",
            ),
        ] {
            assert_eq!(read_text(text, prompts, num_samples).unwrap_err(), expected);
        }
        let missing = read(Path::new("no/such"), &questions(&["A"]), 1).unwrap_err().to_string();
        assert_eq!(
            missing,
            "no/such does not exist: --against takes an evaluation's folder, or a file that `generate --prompts` wrote"
        );
        let empty = tempfile::tempdir().unwrap();
        let found = read(empty.path(), &questions(&["A"]), 1).unwrap_err().to_string();
        assert!(found.contains("answers.jsonl does not exist: --against takes"), "{found}");
    }
}
