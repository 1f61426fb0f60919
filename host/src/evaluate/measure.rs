//! Measures a policy on every axis.

use anyhow::{Context as _, Result};
use indexmap::IndexMap;
use serde_json::json;

use crate::answers::Question;
use crate::console::{Progress, say};
use crate::generate::{GenerateOptions, Generated};
use crate::model::Model;
use crate::plugin::{LossOptions, Message, Plugin, Tokenizer};
use crate::policy::held_out::HeldOut;

use super::answer_line::AnswerLine;
use super::evaluation::{Evaluation, Kl, RunFigures, Settings, Subject};
use super::policies::Policies;
use super::{own_answers, records};

/// What to measure, and how.
pub struct Plan {
    /// The policy, as named on the command line.
    pub subject: Subject,
    /// λ that weighs the records' dimensions, `[M]`.
    pub lambda: Vec<f64>,
    /// β and reduction of the listwise distribution.
    pub loss: LossOptions,
    /// Prompts to answer, each of one turn.
    pub questions: Vec<Question>,
    /// Answers to each prompt.
    pub num_samples: usize,
    /// Sampling of the answers.
    pub generate: GenerateOptions,
    /// Answers generated at once.
    pub batch_size: usize,
    /// What the training run cost.
    pub run: Option<RunFigures>,
}

/// Measures a policy on held-out records and on its own answers.
///
/// # Errors
///
/// Returns an error if a log-prob is not a finite number, or if the chat template rejects a prompt. Errors from models,
/// plugin and judge.
pub fn measure(
    policies: &mut Policies,
    plugin: &Plugin,
    tokenizer: &Tokenizer,
    held_out: &HeldOut,
    plan: Plan,
) -> Result<(Evaluation, Vec<AnswerLine>)> {
    let records = records::measure(policies, plugin, held_out, &plan.loss, &plan.lambda)?;
    let prompts = encode(tokenizer, &plan.questions)?;
    let own = answer(policies.policy(), &prompts, &plan, "answering")?;
    let texts = decode(tokenizer, &own)?;
    let is_from_policy = plan.generate.temperature == 1.0 && plan.generate.top_p == 1.0;
    let estimates = match is_from_policy {
        true => own_answers::divergence(policies, plugin, &prompts, &own)?,
        false => None,
    };
    if !is_from_policy && policies.has_reference() && !prompts.is_empty() {
        say("k1 and k3 are left out: at a temperature other than 1, the answers are not samples of the policy itself");
    }
    let answers = lines(&plan.questions, &own, &texts);
    let (k1, k3) = estimates.unzip();
    let evaluation = Evaluation {
        settings: settings(&plan, held_out),
        subject: plan.subject,
        records: records.row,
        kl: records.kl.map(|tokens| Kl { k1, k3, tokens }),
        spearman: records.spearman,
        scores: IndexMap::new(),
        win_rate: None,
        run: plan.run,
    };
    Ok((evaluation, answers))
}

fn settings(plan: &Plan, held_out: &HeldOut) -> Settings {
    Settings {
        dimensions: held_out.dimensions().to_vec(),
        lambda: plan.lambda.clone(),
        beta: plan.loss.beta,
        reduction: plan.loss.reduction.to_string(),
        num_records: held_out.num_records(),
        num_prompts: plan.questions.len(),
        num_samples: plan.num_samples,
        max_new_tokens: plan.generate.max_new_tokens,
        temperature: plan.generate.temperature,
        seed: plan.generate.seed,
        judge: None,
        against: None,
    }
}

fn encode(tokenizer: &Tokenizer, questions: &[Question]) -> Result<Vec<Vec<i64>>> {
    let encode = |(index, question): (usize, &Question)| {
        let text = tokenizer.render(&question.messages, true).with_context(|| format!("prompt {index}"))?;
        Ok(tokenizer.encode(&text)?)
    };
    questions.iter().enumerate().map(encode).collect()
}

fn answer(model: &Model, prompts: &[Vec<i64>], plan: &Plan, message: &str) -> Result<Vec<Vec<Generated>>> {
    let total = (prompts.len() * plan.num_samples) as u64;
    let mut progress = Progress::new(message, total, 0);
    let answers =
        own_answers::sample(model, prompts, plan.num_samples, &plan.generate, plan.batch_size, &mut |number| {
            progress.update(number as u64, total, "");
        });
    progress.clear();
    answers
}

fn decode(tokenizer: &Tokenizer, answers: &[Vec<Generated>]) -> Result<Vec<Vec<String>>> {
    let decode = |answers: &Vec<Generated>| {
        answers.iter().map(|answer| Ok(tokenizer.decode(&answer.tokens, true)?)).collect::<Result<Vec<_>>>()
    };
    answers.iter().map(decode).collect()
}

fn lines(questions: &[Question], answers: &[Vec<Generated>], texts: &[Vec<String>]) -> Vec<AnswerLine> {
    let mut lines = Vec::new();
    for ((question, answers), texts) in questions.iter().zip(answers).zip(texts) {
        for (sample, (answer, text)) in answers.iter().zip(texts).enumerate() {
            lines.push(AnswerLine {
                prompt: question.fields.clone(),
                sample,
                response: text.clone(),
                num_tokens: answer.num_chosen(),
                finish_reason: if answer.has_ended() { "stop" } else { "length" }.to_owned(),
                scores: None,
                against: None,
            });
        }
    }
    lines
}

/// Returns a record's prompt as a question.
pub fn question_of(messages: &[Message]) -> Question {
    let prompt = match messages {
        [Message { role, content: Some(text), .. }] if role == "user" => json!(text),
        _ => json!(messages),
    };
    let fields = [("prompt".to_owned(), prompt)].into_iter().collect();
    Question { fields, messages: messages.to_vec(), follow_ups: Vec::new() }
}
