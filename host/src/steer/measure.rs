//! Measures a model at every λ of a grid.

use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::answers::rater::{Answer, Rater, Scores};
use crate::console::Progress;
use crate::files::interim::Interim;
use crate::files::record_files::RecordFiles;
use crate::generate::{GenerateOptions, Generated, generate_all};
use crate::metrics::Row;
use crate::model::Model;
use crate::plugin::{Format, LossOptions, Message, Plugin, Tokenizer};
use crate::policy::batch_inputs::{model_inputs, uniform_lambda};
use crate::policy::held_out::HeldOut;

use super::grid::Grid;
use super::report::{ControlReport, Generation, Point, Subject};

/// Settings of a measurement.
pub struct Settings {
    /// Format of the records, which rate or rank their responses by dimension.
    pub format: Format,
    /// β and reduction of the listwise distribution.
    pub loss: LossOptions,
    /// Steps of the grid from λ_k = 0 to 1.
    pub num_steps: usize,
    /// Scores generated text; without one, nothing is generated.
    pub rater: Option<Rater>,
    /// Prompts to answer, at most.
    pub num_prompts: usize,
    /// Answers to each prompt.
    pub num_samples: usize,
    /// Answers generated at once.
    pub batch_size: usize,
    /// Sampling of the answers.
    pub generate: GenerateOptions,
}

/// What is measured at one λ before the rater is asked.
#[derive(Serialize, Deserialize)]
struct Measured {
    held_out: Row,
    /// Texts of the answers.
    answers: Vec<String>,
    /// Their mean length in tokens.
    num_tokens: f64,
}

/// Measures a model at every λ of the grid, or at one point if it has no λ-adapter.
///
/// What is finished is kept beside `out`, the report to be, until the caller [finishes](Interim::finish) it: after a failure,
/// of the rater or of anything else, the next call goes on from there.
///
/// # Errors
///
/// Returns an error if the records are not rated in the adapter's dimensions, the tokenizer has no chat template, or
/// the rater fails. Errors from model, plugin or libtorch.
pub fn measure(
    subject: Subject,
    model: &mut Model,
    plugin: &Plugin,
    tokenizer: &Tokenizer,
    files: &RecordFiles,
    settings: &Settings,
    (folder, out): (&Path, &Path),
) -> Result<(ControlReport, Interim)> {
    let adapter_dimensions = model.adapter_dimensions().map(<[String]>::to_vec);
    let held_out = HeldOut::open(model, plugin, tokenizer, files, settings.format)?;
    let num_dimensions = held_out.dimensions().len();
    let grid = match &adapter_dimensions {
        Some(_) => Grid::new(num_dimensions, settings.num_steps),
        None => Grid { points: vec![uniform_lambda(num_dimensions)], curves: vec![vec![0]; num_dimensions] },
    };
    let prompts = if settings.rater.is_some() { held_out.prompts(settings.num_prompts) } else { Vec::new() };
    let prompt_ids = prompts
        .iter()
        .map(|messages| Ok(tokenizer.encode(&tokenizer.render(messages, true)?)?))
        .collect::<Result<Vec<_>>>()?;
    let prompt_ids: Vec<Vec<i64>> = std::iter::repeat_n(prompt_ids, settings.num_samples).flatten().collect();

    let about = format!(
        "{} {} {:?} {:?} {:?} {:?} {} {:?}",
        model.key(folder)?,
        held_out.hash(),
        held_out.dimensions(),
        grid.points,
        settings.loss,
        settings.generate,
        settings.batch_size,
        prompt_ids
    );
    let mut interim = Interim::open(out, &blake3::hash(about.as_bytes()).to_hex())?;
    let references: Vec<Vec<f64>> = interim.step("reference", || {
        model.set_adapter_enabled(false);
        let references = held_out.reference(model, plugin, &settings.loss);
        model.set_adapter_enabled(true);
        references?.iter().map(|log_probs| Ok(Vec::<f64>::try_from(log_probs.f_to_kind(Kind::Double)?)?)).collect()
    })?;
    let references: Vec<Tensor> = references.iter().map(|log_probs| Tensor::from_slice(log_probs)).collect();
    let per_point = (held_out.num_records() + prompt_ids.len()) as u64;
    let total = per_point * grid.points.len() as u64;
    let mut progress = Progress::new("steering", total, 0);
    let mut measured = Vec::new();
    for (index, lambda) in grid.points.iter().enumerate() {
        if adapter_dimensions.is_some() {
            model.fix_lambda(lambda)?;
        }
        let message = format!("λ {} of {}", index + 1, grid.points.len());
        let done = index as u64 * per_point;
        measured.push(interim.step(&format!("point {index}"), || {
            let mut measurement = held_out.measurement(&settings.loss, true);
            for (batch, reference) in held_out.batches(lambda).zip(&references) {
                let batch = batch?;
                let hidden = model.hidden(&model_inputs(&batch))?;
                let _ = measurement.add(plugin, &batch, (&hidden, model.lm_head()), Some(reference))?;
            }
            let done = done + held_out.num_records() as u64;
            progress.update(done, total, &message);
            let texts = generate_all(model, &prompt_ids, &settings.generate, settings.batch_size, &mut |texts| {
                progress.update(done + texts as u64, total, &message);
            })?;
            let decode = |text: &Generated| Ok(tokenizer.decode(&text.tokens, true)?);
            Ok(Measured {
                held_out: measurement.row("eval_"),
                answers: texts.iter().map(decode).collect::<Result<_>>()?,
                num_tokens: texts.iter().map(Generated::num_chosen).sum::<usize>() as f64 / texts.len().max(1) as f64,
            })
        })?);
        progress.update(done + per_point, total, &message);
    }
    progress.clear();

    let scores = match &settings.rater {
        Some(rater) => {
            let answer = |(messages, text): (&&[Message], &String)| Answer::new(messages, text);
            let of_point =
                |point: &Measured| prompts.iter().cycle().zip(&point.answers).map(answer).collect::<Vec<_>>();
            let answers: Vec<Answer> = measured.iter().flat_map(of_point).collect();
            let rated = rater.rate(&answers).map_err(|error| interim.with_way_on(error))?;
            means(&rated, prompt_ids.len())
        }
        None => Vec::new(),
    };
    let mut points = Vec::new();
    for (index, (lambda, measured)) in grid.points.into_iter().zip(measured).enumerate() {
        let generated = scores.get(index).map(|scores| {
            let mut row = Row::new();
            row.extend(scores.iter().map(|(name, mean)| (format!("score/{name}"), (*mean).into())));
            row.insert("num_tokens".into(), measured.num_tokens.into());
            row
        });
        points.push(Point { lambda, held_out: measured.held_out, generated });
    }
    let (num_prompts, num_samples) = (prompts.len(), settings.num_samples);
    let generation = |rater| Generation::new(rater, num_prompts, num_samples, &settings.generate);
    let generation = settings.rater.as_ref().map(generation);
    let report = ControlReport::new(
        subject,
        held_out.dimensions(),
        &settings.loss,
        generation,
        held_out.num_records(),
        points,
        grid.curves,
    );
    Ok((report, interim))
}

/// Averages the scores of each λ, whose answers follow each other.
fn means(scores: &[Scores], answers_per_lambda: usize) -> Vec<Scores> {
    let mean = |scores: &[Scores]| {
        let mut sums = Scores::new();
        for (name, score) in scores.iter().flatten() {
            *sums.entry(name.clone()).or_default() += score / scores.len() as f64;
        }
        sums
    };
    scores.chunks(answers_per_lambda.max(1)).map(mean).collect()
}
