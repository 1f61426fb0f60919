//! Measures a policy on every axis.

use anyhow::{Context as _, Result};
use indexmap::IndexMap;
use serde_json::json;

use crate::answers::{Judge, Question};
use crate::console::{Progress, say};
use crate::files::interim::Interim;
use crate::generate::{GenerateOptions, Generated};
use crate::model::Model;
use crate::plugin::{LossOptions, Message, Plugin, Tokenizer};
use crate::policy::held_out::HeldOut;

use super::answer_line::{Against, AnswerLine};
use super::evaluation::{Evaluation, Kl, RunFigures, Settings, Subject};
use super::judged::{Judged, compare, mean_scores};
use super::policies::Policies;
use super::{own_answers, records};

/// Name of the reference's answers in the settings.
const REFERENCE: &str = "reference";

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
    /// What scores the answers.
    pub judge: Option<Judge>,
    /// Name and texts of the answers to compare with, as many to each prompt; None for those of the reference.
    pub against: Option<(String, Vec<Vec<String>>)>,
    /// What the training run cost.
    pub run: Option<RunFigures>,
}

/// Measures a policy on held-out records and on its own answers.
///
/// What is finished is kept in `interim`, so that after a failure, of the judge or of anything else, it is not computed again.
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
    mut plan: Plan,
    interim: &mut Interim,
) -> Result<(Evaluation, Vec<AnswerLine>)> {
    let judge_name = plan.judge.as_ref().map(Judge::name);
    let records = interim.step("records", || records::measure(policies, plugin, held_out, &plan.loss, &plan.lambda))?;
    let prompts = encode(tokenizer, &plan.questions)?;
    let own = interim.step("answers", || answer(policies.policy(), &prompts, &plan, "answering"))?;
    let texts = decode(tokenizer, &own)?;
    let is_from_policy = plan.generate.temperature == 1.0 && plan.generate.top_p == 1.0;
    let estimates = match is_from_policy {
        true => interim.step("divergence", || own_answers::divergence(policies, plugin, &prompts, &own))?,
        false => None,
    };
    if !is_from_policy && policies.has_reference() && !prompts.is_empty() {
        say("k1 and k3 are left out: at a temperature other than 1, the answers are not samples of the policy itself");
    }
    let mut answers = lines(&plan.questions, &own, &texts);
    let (mut scores, mut win_rate, mut against_name) = (IndexMap::new(), None, None);
    if let Some(judge) = plan.judge.take().filter(|_| !prompts.is_empty()) {
        let judged = Judged::new(&judge, &plan.questions, texts).map_err(|error| interim.with_way_on(error))?;
        let others = match plan.against.take() {
            Some(others) => Some(others),
            None => {
                let others = interim.step("answers of the reference", || {
                    policies.with_reference(|model| {
                        let others = answer(model, &prompts, &plan, "answering as the reference")?;
                        decode(tokenizer, &others)
                    })
                })?;
                others.map(|texts| (REFERENCE.to_owned(), texts))
            }
        };
        let against = match others {
            Some((name, texts)) => {
                against_name = Some(name);
                Some(Judged::new(&judge, &plan.questions, texts).map_err(|error| interim.with_way_on(error))?)
            }
            None => None,
        };
        scores = mean_scores(&judged, against.as_ref());
        win_rate = match &against {
            Some(against) => Some(compare(&judged, against, held_out.dimensions(), &plan.lambda)?),
            None => None,
        };
        add_scores(&mut answers, judged, against);
    }
    let (k1, k3) = estimates.unzip();
    let evaluation = Evaluation {
        settings: Settings { judge: judge_name, against: against_name, ..settings(&plan, held_out) },
        subject: plan.subject,
        records: records.row,
        kl: records.kl.map(|tokens| Kl { k1, k3, tokens }),
        spearman: records.spearman,
        scores,
        win_rate,
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

/// Adds what the judge said to the lines of the answers, which are in the same order.
fn add_scores(lines: &mut [AnswerLine], judged: Judged, against: Option<Judged>) {
    let mut others = against
        .into_iter()
        .flat_map(|against| against.texts.into_iter().flatten().zip(against.scores.into_iter().flatten()));
    for (line, scores) in lines.iter_mut().zip(judged.scores.into_iter().flatten()) {
        line.scores = Some(scores);
        line.against = others.next().map(|(response, scores)| Against { response, scores });
    }
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
