//! Raters: commands that score generated text.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::plugin::Message;

/// Answer to be scored: one line of a rater's input.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Text of the prompt; for a conversation, its last turn.
    pub prompt: String,
    /// Text that the model generated.
    pub response: String,
}

impl Answer {
    /// The answer `response` to a conversation.
    pub fn new(messages: &[Message], response: impl Into<String>) -> Self {
        let last = messages.last().and_then(|message| message.content.clone());
        Self { prompt: last.unwrap_or_default(), response: response.into() }
    }
}

/// Scores of one answer by name.
pub type Scores = BTreeMap<String, f64>;

/// Shell command that scores answers: it reads one JSON object per line, an [`Answer`], and writes one JSON object of
/// numbers, the [`Scores`], per line, in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rater {
    command: String,
}

impl Rater {
    /// Reads `--rater`.
    ///
    /// # Errors
    ///
    /// Returns an error if the command is empty or asks for a built-in rater (`builtin:…`): there are none.
    pub fn parse(command: &str) -> Result<Self> {
        if command.starts_with("builtin:") {
            bail!(
                "there is no rater {command}: a rater is a command that reads lines {{\"prompt\", \"response\"}} and writes a \
                 line {{\"name\": score, …}} for each, as in --rater \"python3 rate.py\""
            );
        }
        if command.trim().is_empty() {
            bail!("--rater is empty: pass a command, or leave it out");
        }
        Ok(Self { command: command.to_owned() })
    }

    /// The command as it was passed to `--rater`.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Scores each answer; all scores have the same names.
    ///
    /// # Errors
    ///
    /// Returns an error if the command cannot be run or fails, or if it writes a line that is not an object of numbers,
    /// lines with different names, or more or fewer lines than there are answers.
    pub fn rate(&self, answers: &[Answer]) -> Result<Vec<Scores>> {
        let command = &self.command;
        let mut input = String::new();
        for answer in answers {
            input.push_str(&serde_json::to_string(answer)?);
            input.push('\n');
        }
        let output = run(command, input).with_context(|| format!("the rater `{command}` cannot be run"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().lines().last().unwrap_or("it wrote nothing to stderr").to_owned();
            bail!("the rater `{command}` failed ({}): {said}", output.status);
        }
        let text =
            String::from_utf8(output.stdout).with_context(|| format!("the rater `{command}` did not write UTF-8"))?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.len() != answers.len() {
            bail!(
                "the rater `{command}` wrote {} lines for {} answers: it must write one for each, in their order",
                lines.len(),
                answers.len()
            );
        }
        let mut all = Vec::<Scores>::new();
        for (number, line) in (1..).zip(lines) {
            let scores = read_line(line).with_context(|| {
                format!(
                    "line {number} of the rater `{command}` is not an object of numbers, as in {{\"honesty\": 3.5}}: {line}"
                )
            })?;
            if let Some(first) = all.first().filter(|first| !first.keys().eq(scores.keys())) {
                bail!(
                    "line {number} of the rater `{command}` scores {}, its first line {}: all must score the same",
                    names(&scores),
                    names(first)
                );
            }
            all.push(scores);
        }
        Ok(all)
    }
}

fn names(scores: &Scores) -> String {
    scores.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn read_line(line: &str) -> Option<Scores> {
    let Ok(Value::Object(object)) = serde_json::from_str(line) else { return None };
    let scores: Option<Scores> = object.into_iter().map(|(name, score)| Some((name, score.as_f64()?))).collect();
    scores.filter(|scores| !scores.is_empty())
}

/// Runs a shell command with `input` as its stdin.
fn run(command: &str, input: String) -> std::io::Result<Output> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    // In a separate thread, because the command may write before it has read everything.
    let writer = std::thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A command that stops reading early is judged by its exit status and the lines it wrote.
            let _ = stdin.write_all(input.as_bytes());
        }
    });
    let output = child.wait_with_output();
    let _ = writer.join();
    output
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn answers(number: usize) -> Vec<Answer> {
        (0..number).map(|index| Answer { prompt: format!("p{index}"), response: "r".into() }).collect()
    }

    fn refused(command: &str) -> String {
        format!("{:#}", Rater::parse(command).unwrap().rate(&answers(3)).unwrap_err())
    }

    #[test]
    fn a_command_scores_line_by_line() {
        let rater = Rater::parse(r#"awk '{ print "{\"length\": " length($0) ", \"number\": " NR "}" }'"#).unwrap();
        let scores = rater.rate(&answers(3)).unwrap();
        assert_eq!(scores.iter().map(|scores| scores["number"]).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert_eq!(scores[0]["length"], r#"{"prompt":"p0","response":"r"}"#.len() as f64);
        // More than a pipe holds, from a command that writes as it reads.
        assert_eq!(Rater::parse("sed 's/.*/{\"a\": 1}/'").unwrap().rate(&answers(20_000)).unwrap().len(), 20_000);
    }

    #[test]
    fn commands_that_fail_or_write_something_else_are_refused() {
        let failed = refused("echo broken >&2; exit 3");
        assert_eq!(failed, "the rater `echo broken >&2; exit 3` failed (exit status: 3): broken");
        assert!(refused("exit 1").ends_with("failed (exit status: 1): it wrote nothing to stderr"));
        assert_eq!(
            refused("echo '{\"a\": 1}'"),
            "the rater `echo '{\"a\": 1}'` wrote 1 lines for 3 answers: it must write one for each, in their order"
        );
        assert!(refused("sed 's/.*/{\"a\": \"x\"}/'").starts_with("line 1 of the rater"));
        let killed = "head -n 1 | sed 's/.*/{\"a\": 1}/'; kill -9 $$";
        assert_eq!(
            refused(killed),
            format!("the rater `{killed}` failed (signal: 9 (SIGKILL)): it wrote nothing to stderr")
        );
        let mixed = refused("awk '{ print \"{\\\"a\" (NR > 1) \"\\\": 1}\" }'");
        assert!(mixed.starts_with("line 2 of the rater") && mixed.contains("scores a1, its first line a0"), "{mixed}");
        let built_in = Rater::parse("builtin:x").unwrap_err().to_string();
        assert!(
            built_in.starts_with("there is no rater builtin:x: a rater is a command that reads lines"),
            "{built_in}"
        );
        assert_eq!(Rater::parse(" ").unwrap_err().to_string(), "--rater is empty: pass a command, or leave it out");
    }
}
