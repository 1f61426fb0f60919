//! How answers are written.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::question::Question;
use super::respond::Answered;

/// Formats of answers, each as the harness of that name reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// JSON lines: the prompt's own fields, `response` (or `responses`, turn by turn), `model`, `num_tokens` and
    /// `finish_reason`.
    Jsonl,
    /// A JSON array with `instruction`, `output` and `generator`: `alpaca_eval --model_outputs`.
    AlpacaEval,
    /// JSON lines of FastChat's `llm_judge`: `data/mt_bench/model_answer/<name>.jsonl`.
    MtBench,
    /// JSON lines of Arena-Hard 2.0: `data/arena-hard-v2.0/model_answer/<name>.jsonl`.
    ArenaHard,
}

impl AnswerFormat {
    /// Checks that the format can hold answers to these questions.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first question that it cannot hold, and why.
    pub fn check(self, questions: &[Question]) -> Result<()> {
        for (index, question) in questions.iter().enumerate() {
            let has = |name: &str| question.fields.get(name).is_some_and(|value| !value.is_null());
            match self {
                Self::Jsonl => {}
                Self::AlpacaEval => {
                    ensure!(question.follow_ups.is_empty(), "prompt {index} has several turns: alpaca_eval takes one");
                    ensure!(
                        question.messages.len() == 1,
                        "prompt {index} has {} messages: alpaca_eval takes one instruction",
                        question.messages.len()
                    );
                }
                Self::MtBench => {
                    ensure!(has("question_id"), "prompt {index} has no `question_id`, which mt_bench needs")
                }
                Self::ArenaHard => {
                    ensure!(has("uid"), "prompt {index} has no `uid`, which arena_hard needs");
                    ensure!(question.follow_ups.is_empty(), "prompt {index} has several turns: arena_hard takes one");
                }
            }
        }
        Ok(())
    }

    /// Writes answers as the content of a file; `model` is the name that the harness shows, `seconds` the time since 1970.
    ///
    /// # Errors
    ///
    /// The same as those of [`check`](Self::check).
    pub fn write(self, questions: &[Question], answers: &[Answered], model: &str, seconds: f64) -> Result<String> {
        self.check(questions)?;
        if questions.len() != answers.len() {
            bail!("{} answers to {} prompts", answers.len(), questions.len());
        }
        let entries = questions.iter().zip(answers).map(|(question, answer)| match self {
            Self::Jsonl => plain(question, answer, model),
            Self::AlpacaEval => alpaca_eval(question, answer, model),
            Self::MtBench => mt_bench(question, answer, model, seconds),
            Self::ArenaHard => arena_hard(question, answer, model, seconds),
        });
        Ok(match self {
            Self::AlpacaEval => format!("{:#}\n", Value::Array(entries.collect())),
            _ => entries.map(|entry| format!("{entry}\n")).collect(),
        })
    }
}

fn plain(question: &Question, answer: &Answered, model: &str) -> Value {
    let reasons: Vec<&str> =
        answer.has_ended.iter().map(|&has_ended| if has_ended { "stop" } else { "length" }).collect();
    let mut entry = question.fields.clone();
    let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
    if let ([text], [num_tokens], [reason]) = (&*answer.texts, &*answer.num_tokens, &*reasons) {
        put("response", json!(text));
        put("model", json!(model));
        put("num_tokens", json!(num_tokens));
        put("finish_reason", json!(reason));
    } else {
        put("responses", json!(answer.texts));
        put("model", json!(model));
        put("num_tokens", json!(answer.num_tokens));
        put("finish_reason", json!(reasons));
    }
    Value::Object(entry)
}

fn alpaca_eval(question: &Question, answer: &Answered, model: &str) -> Value {
    let mut entry = Map::new();
    let text = question.messages.last().and_then(|message| message.content.as_deref()).unwrap_or_default();
    entry.insert("instruction".to_owned(), question.fields.get("instruction").cloned().unwrap_or_else(|| json!(text)));
    for name in ["input", "dataset"] {
        if let Some(value) = question.fields.get(name) {
            entry.insert(name.to_owned(), value.clone());
        }
    }
    entry.insert("output".to_owned(), json!(answer.texts.first()));
    entry.insert("generator".to_owned(), json!(model));
    Value::Object(entry)
}

fn mt_bench(question: &Question, answer: &Answered, model: &str, seconds: f64) -> Value {
    json!({
        "question_id": question.fields["question_id"],
        "answer_id": answer_id(answer),
        "model_id": model,
        "choices": [{"index": 0, "turns": answer.texts}],
        "tstamp": seconds,
    })
}

/// `token_len` counts the model's own tokens, where Arena-Hard's script counts GPT-4o's; it and the counts of Markdown are read
/// for its style control only.
fn arena_hard(question: &Question, answer: &Answered, model: &str, seconds: f64) -> Value {
    let text = answer.texts.first().map(String::as_str).unwrap_or_default();
    let mut messages: Vec<Value> = question.messages.iter().map(|message| json!(message)).collect();
    messages.push(json!({"role": "assistant", "content": {"answer": text}}));
    let mut metadata = Map::new();
    metadata.insert("token_len".to_owned(), json!(answer.num_tokens.first()));
    metadata.extend(markdown_counts(text));
    json!({
        "uid": question.fields["uid"],
        "ans_id": answer_id(answer),
        "model": model,
        "messages": messages,
        "tstamp": seconds,
        "metadata": metadata,
    })
}

/// Returns a name that is the same for the same answer.
fn answer_id(answer: &Answered) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in &answer.texts {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex()[..22].to_owned()
}

/// Counts headers, list entries and bold text outside of code blocks, by Arena-Hard's names.
fn markdown_counts(text: &str) -> Map<String, Value> {
    let prose = without_code(text);
    let mut headers = [0_u64; 6];
    let (mut ordered, mut unordered) = (0_u64, 0_u64);
    for line in prose.split_inclusive('\n') {
        let level = line.len() - line.trim_start_matches('#').len();
        if (1..=6).contains(&level) && line[level..].starts_with(char::is_whitespace) {
            headers[level - 1] += 1;
        }
        let item = line.trim_start();
        let number = item.trim_start_matches(|character: char| character.is_ascii_digit());
        if number.len() < item.len()
            && number.strip_prefix('.').is_some_and(|rest| rest.starts_with(char::is_whitespace))
        {
            ordered += 1;
        }
        let rest = item.strip_prefix(['-', '*', '+']);
        unordered += u64::from(rest.is_some_and(|rest| rest.starts_with(char::is_whitespace)));
    }
    let headers: Map<String, Value> =
        (1..).zip(headers).map(|(level, count)| (format!("h{level}"), json!(count))).collect();
    let counts = json!({
        "header_count": headers,
        "list_count": {"ordered": ordered, "unordered": unordered},
        "bold_count": {"**": count_bold(&prose, "**", '*'), "__": count_bold(&prose, "__", '_')},
    });
    if let Value::Object(counts) = counts { counts } else { Map::new() }
}

/// Removes what is between pairs of ```, which has no backtick itself.
fn without_code(text: &str) -> String {
    let mut prose = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("```") {
        let code = &rest[start + 3..];
        match code.find('`') {
            Some(end) if code[end..].starts_with("```") => {
                prose.push_str(&rest[..start]);
                rest = &code[end + 3..];
            }
            _ => {
                prose.push_str(&rest[..start + 1]);
                rest = &rest[start + 1..];
            }
        }
    }
    prose + rest
}

/// Counts stretches of text between two marks, without the mark's character or a line's end in them.
fn count_bold(text: &str, mark: &str, character: char) -> u64 {
    let (mut count, mut rest) = (0, text);
    while let Some(start) = rest.find(mark) {
        let inner = &rest[start + mark.len()..];
        let end = inner.find([character, '\n']).unwrap_or(inner.len());
        if end > 0 && inner[end..].starts_with(mark) {
            count += 1;
            rest = &inner[end + mark.len()..];
        } else {
            rest = &rest[start + 1..];
        }
    }
    count
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use crate::plugin::Message;

    use super::*;

    fn question(fields: Value, follow_ups: &[&str]) -> Question {
        let Value::Object(fields) = fields else { panic!("{fields}") };
        let follow_ups = follow_ups.iter().map(|text| (*text).to_owned()).collect();
        Question { fields, messages: vec![Message::new("user", "Why?")], follow_ups }
    }

    fn answer(texts: &[&str]) -> Answered {
        Answered {
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            num_tokens: vec![5; texts.len()],
            has_ended: vec![true; texts.len()],
        }
    }

    fn written(format: AnswerFormat, question: &Question, answer: &Answered) -> Value {
        let text =
            format.write(std::slice::from_ref(question), std::slice::from_ref(answer), "m@honesty=1", 12.5).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_harness_finds_its_fields() {
        let plain = question(json!({"prompt": "Why?", "uid": "u", "question_id": 81, "category": "c"}), &[]);
        let found = written(AnswerFormat::Jsonl, &plain, &answer(&["So."]));
        assert_eq!(
            found,
            json!({"prompt": "Why?", "uid": "u", "question_id": 81, "category": "c", "response": "So.",
                   "model": "m@honesty=1", "num_tokens": 5, "finish_reason": "stop"})
        );
        let found = written(
            AnswerFormat::AlpacaEval,
            &question(json!({"instruction": "Why?", "dataset": "d"}), &[]),
            &answer(&["So."]),
        );
        assert_eq!(
            found,
            json!([{"instruction": "Why?", "dataset": "d", "output": "So.", "generator": "m@honesty=1"}])
        );
        let turns = question(json!({"turns": ["Why?", "And?"], "question_id": 81}), &["And?"]);
        let mut found = written(AnswerFormat::MtBench, &turns, &answer(&["So.", "Thus."]));
        assert_eq!(found["answer_id"].take().as_str().unwrap().len(), 22);
        assert_eq!(
            found,
            json!({"question_id": 81, "answer_id": null, "model_id": "m@honesty=1",
                   "choices": [{"index": 0, "turns": ["So.", "Thus."]}], "tstamp": 12.5})
        );
        let found = written(AnswerFormat::ArenaHard, &plain, &answer(&["So."]));
        assert_eq!(
            (&found["uid"], &found["model"], &found["messages"]),
            (
                &json!("u"),
                &json!("m@honesty=1"),
                &json!([{"role": "user", "content": "Why?"}, {"role": "assistant", "content": {"answer": "So."}}])
            )
        );
        assert_eq!(found["metadata"]["token_len"], 5);
    }

    #[test]
    fn what_a_format_cannot_hold_is_refused() {
        let refused = |format: AnswerFormat, question: Question| format.check(&[question]).unwrap_err().to_string();
        let plain = || question(json!({"prompt": "Why?"}), &[]);
        assert_eq!(refused(AnswerFormat::MtBench, plain()), "prompt 0 has no `question_id`, which mt_bench needs");
        assert_eq!(refused(AnswerFormat::ArenaHard, plain()), "prompt 0 has no `uid`, which arena_hard needs");
        let turns = question(json!({"turns": ["Why?", "And?"], "uid": 1}), &["And?"]);
        assert_eq!(
            refused(AnswerFormat::AlpacaEval, turns.clone()),
            "prompt 0 has several turns: alpaca_eval takes one"
        );
        assert_eq!(refused(AnswerFormat::ArenaHard, turns), "prompt 0 has several turns: arena_hard takes one");
    }

    #[test]
    fn markdown_is_counted_as_arena_hard_counts_it() {
        // What its `count_markdown_elements` returns for this text without its code.
        let text = "# One\n## Two\n#no\n####### seven\n- a\n * b\n+c\n1. d\n 23. e\n4.f\n**bold** and ** also ** and **no\n** \
                    __it__ ```\n# code\n- x\n``` and `#`\n### Three";
        assert_eq!(
            Value::Object(markdown_counts(text)),
            json!({
                "header_count": {"h1": 1, "h2": 1, "h3": 1, "h4": 0, "h5": 0, "h6": 0},
                "list_count": {"ordered": 2, "unordered": 2},
                "bold_count": {"**": 2, "__": 1},
            })
        );
    }
}
