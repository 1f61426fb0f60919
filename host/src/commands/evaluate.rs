//! `lambda-dpo evaluate`: a policy on every axis.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::answers::{self, Judge, Question, Rater};
use crate::cli::EvaluateArgs;
use crate::console::say;
use crate::evaluate::evaluation::Subject;
use crate::evaluate::measure::question_of;
use crate::evaluate::policies::check_tokenizers;
use crate::evaluate::{FILES, Plan, Policies, Reference, against, measure, run_figures, table, write};
use crate::files::hub::{Hub, Use};
use crate::files::interim::Interim;
use crate::files::record_files::RecordFiles;
use crate::files::report_folder::ReportFolder;
use crate::generate::GenerateOptions;
use crate::libtorch::Libtorch;
use crate::model::Model;
use crate::plugin::{LossOptions, Plugin};
use crate::policy::batch_inputs::uniform_lambda;
use crate::policy::held_out::HeldOut;

use super::loaded_model::{LoadedModel, precision, prepare};

pub(super) fn run(args: &EvaluateArgs, plugin: Option<&Path>) -> Result<()> {
    check(args)?;
    let run = args.run.as_deref().map(run_figures).transpose()?;
    let given = args.prompts.as_deref().map(questions).transpose()?;
    let out = ReportFolder::begin(&args.out, &FILES)?;
    let files = RecordFiles::find(&Hub::from_env(), &args.records, Use::Evaluate)?;

    let libtorch = prepare(&args.model)?;
    let loaded = LoadedModel::load_on(libtorch, &args.model, plugin)?;
    if args.num_prompts > 0 {
        loaded.check_chat_template()?;
    }
    let judge = judge(args, &loaded.plugin, libtorch)?;
    let dimensions = loaded.model.adapter_dimensions().map(<[String]>::to_vec);
    let held_out = HeldOut::open(&loaded.model, &loaded.plugin, &loaded.tokenizer, &files, args.format)?;
    let from_records = || held_out.prompts(args.num_prompts).into_iter().map(question_of).collect();
    let mut questions: Vec<Question> = given.unwrap_or_else(from_records);
    questions.truncate(args.num_prompts);
    let against = match &args.against {
        Some(path) => Some((path.display().to_string(), against::read(path, &questions, args.num_samples)?)),
        None => None,
    };
    let generate = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_p: 1.0,
        seed: args.seed,
        eos_token_ids: loaded.eos_token_ids()?,
    };
    let lambda = loaded.model.lambda();
    let LoadedModel { plugin, folder, tokenizer, model } = loaded;
    let reference_folder = reference_folder(args)?;
    let (reference, reference_name) = match (&args.reference, &reference_folder) {
        (None, _) => (Reference::AdapterOff, "adapter_off".to_owned()),
        (Some(_), None) => (Reference::None, "none".to_owned()),
        (Some(name), Some(folder)) => {
            let reference = Model::load(folder, libtorch, precision(&args.model.policy, args.model.dtype.into()))?;
            reference.freeze();
            (Reference::Model(Box::new(reference)), name.display().to_string())
        }
    };
    let mut policies = Policies::new(model, reference)?;
    let plan = Plan {
        subject: Subject {
            model: args.model.policy.model.clone(),
            adapter: args.model.policy.adapter.clone(),
            lambda: lambda.clone().zip(dimensions).map(|(weights, names)| names.into_iter().zip(weights).collect()),
            reference: reference_name,
        },
        lambda: lambda.unwrap_or_else(|| uniform_lambda(held_out.dimensions().len())),
        loss: LossOptions { beta: args.beta, reduction: args.reduction, ..LossOptions::default() },
        questions,
        num_samples: args.num_samples,
        generate,
        batch_size: args.batch_size,
        judge,
        against,
        run,
    };
    if let (Some(folder), Some(question)) = (&reference_folder, plan.questions.first()) {
        check_tokenizers(
            &tokenizer,
            &plugin.tokenizer(folder, args.model.policy.chat_template.as_deref())?,
            &question.messages,
        )?;
    }
    let about = format!(
        "{} {} {:?} {:?} {:?} {:?} {:?} {} {:?} {}",
        policies.key(&folder, reference_folder.as_deref())?,
        held_out.hash(),
        held_out.dimensions(),
        plan.subject.lambda,
        plan.lambda,
        plan.loss,
        plan.questions,
        plan.num_samples,
        plan.generate,
        plan.batch_size
    );
    let mut interim = Interim::open(&args.out, &blake3::hash(about.as_bytes()).to_hex())?;
    let (evaluation, answers) = measure(&mut policies, &plugin, &tokenizer, &held_out, plan, &mut interim)?;
    let page = write(out, &evaluation, &answers)?;
    interim.finish();
    std::io::stdout().write_all(table(&evaluation).as_bytes())?;
    say(&format!("evaluation written to {}", page.display()));
    Ok(())
}

/// Finds the model that `--reference` names; None for the policy without its adapter, or for none.
fn reference_folder(args: &EvaluateArgs) -> Result<Option<PathBuf>> {
    let named = args.reference.as_deref().filter(|name| *name != Path::new("none"));
    Ok(named.map(|name| Hub::from_env().model_folder(name)).transpose()?)
}

/// Loads what scores the answers.
fn judge(args: &EvaluateArgs, plugin: &Plugin, libtorch: Libtorch) -> Result<Option<Judge>> {
    if let Some(command) = &args.rater {
        return Ok(Some(Judge::Rater(Rater::parse(command)?)));
    }
    let Some(name) = &args.reward_model else { return Ok(None) };
    let folder = Hub::from_env().model_folder(name)?;
    Judge::load_reward_model(name, &folder, plugin, libtorch, args.model.dtype.into(), args.batch_size).map(Some)
}

/// Reads `--prompts`, each of one turn.
fn questions(file: &Path) -> Result<Vec<Question>> {
    let questions = answers::read(file)?;
    if let Some(index) = questions.iter().position(|question| !question.follow_ups.is_empty()) {
        bail!(
            "{}: prompt {index} has several turns, and evaluate answers one: give the conversation up to the answer as `messages`",
            file.display()
        );
    }
    Ok(questions)
}

fn check(args: &EvaluateArgs) -> Result<()> {
    ensure!(
        args.against.is_none() || args.rater.is_some() || args.reward_model.is_some(),
        "--against compares scores: pass --rater or --reward-model, which give them"
    );
    ensure!(args.num_samples >= 1, "--num-samples must be at least 1, not 0");
    ensure!(args.batch_size >= 1, "--batch-size must be at least 1, not 0");
    ensure!(args.beta > 0.0 && args.beta.is_finite(), "--beta must be a number above 0, not {}", args.beta);
    ensure!(
        args.format.has_dimensions(),
        "--format must be ultrafeedback or rankings, not {}: evaluate measures rated responses",
        args.format
    );
    Ok(())
}
