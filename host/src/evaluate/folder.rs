//! An evaluation on disk: `evaluation.json`, `answers.jsonl` and the page.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::answers::question::question;
use crate::files::atomic;
use crate::files::report_folder::ReportFolder;
use crate::plugin::Message;

use super::answer_line::AnswerLine;
use super::evaluation::Evaluation;
use super::page::{self, Example};

const FILE: &str = "evaluation.json";
const ANSWERS: &str = "answers.jsonl";
const PAGE: &str = "index.html";

/// Answers that the page shows.
const NUM_EXAMPLES: usize = 6;

/// Names of the files of an evaluation.
pub const FILES: [&str; 3] = [FILE, ANSWERS, PAGE];

/// Writes an evaluation into its folder, whole or not at all, and returns the path of its page.
///
/// # Errors
///
/// Returns an error if the folder cannot be written.
pub fn write(folder: ReportFolder, evaluation: &Evaluation, answers: &[AnswerLine]) -> Result<PathBuf> {
    let json = serde_json::to_string_pretty(evaluation)?;
    let lines = answers.iter().map(|answer| Ok(format!("{}\n", serde_json::to_string(answer)?)));
    let lines = lines.collect::<Result<String>>()?;
    let page = page::html(evaluation, &examples(answers)?).map_err(anyhow::Error::msg)?;
    for (name, text) in [(FILE, format!("{json}\n")), (ANSWERS, lines), (PAGE, page)] {
        atomic::write(&folder.path().join(name), text.as_bytes())?;
    }
    Ok(folder.commit()?.join(PAGE))
}

/// Returns the first answers, one to a prompt.
fn examples(answers: &[AnswerLine]) -> Result<Vec<Example>> {
    let first = answers.iter().filter(|line| line.sample == 0).take(NUM_EXAMPLES);
    first.map(example).collect()
}

fn example(line: &AnswerLine) -> Result<Example> {
    let messages = question(Value::Object(line.prompt.clone()))?.messages;
    let turn = |message: &Message| {
        let text = message.content.as_deref().unwrap_or_default();
        if messages.len() == 1 { text.to_owned() } else { format!("{}: {text}", message.role) }
    };
    let against = line.against.as_ref().map(|other| (other.response.clone(), other.scores.clone()));
    Ok(Example {
        prompt: messages.iter().map(turn).collect::<Vec<_>>().join("\n"),
        response: line.response.clone(),
        scores: line.scores.clone().unwrap_or_default(),
        against,
    })
}
