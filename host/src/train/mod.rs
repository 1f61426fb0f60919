//! `lambda-dpo train`: stages `sft`, `dpo` and `lambda_dpo`.
//!
//! The journey of a run: [`output`] decides where to start, [`data`] opens the records, [`policy`] the model, [`mod@reference`]
//! computes s^ref once, [`batches`] makes micro-batches in the order of [`order`], [`step`] turns them into an update,
//! [`run`] repeats that to the end, [`report`] and [`checkpoint`] write it down.
//!
//! # Invariants
//!
//! - Data order, λ and dropout are functions of the seed and the step, so a resumed run equals one that never stopped.
//! - Every file appears whole or not at all; `metrics.jsonl` grows by whole lines and is cut back on resuming.

pub mod order;
pub mod batches;
pub mod reference;
pub mod forward;
pub mod step;
mod run;
pub mod optimizer;
pub mod lr;

pub mod checkpoint;
pub mod data;
mod error;
pub mod metrics;
pub mod output;
pub mod plot;
pub mod policy;
pub mod progress;
pub mod report;
pub mod signals;
pub mod tensorboard;

use std::path::{Path, PathBuf};

use tch::Device;

use crate::cache::CacheFolder;
use crate::config::{self, Init, ReferenceKind, RunConfig, Stage};
use crate::foreign::compare::{Comparison, compare, usual_tolerance};
use crate::foreign::{LogitsPolicy, OnnxPolicy, Scorer, ScriptPolicy};
use crate::hub::Hub;
use crate::libtorch;
use crate::model::{Model, ModelConfig};
use crate::plugin::{LossOptions, Objective, Plugin, Reduction, Wants};

pub use error::TrainError;

use checkpoint::{Checkpoint, TrainerState};
use data::Data;
use lr::LrSchedule;
use metrics::Meaning;
use optimizer::AdamW;
use output::Start;
use policy::{Learned, Policy};
use progress::{Progress, say};
use reference::{Reference, ReferenceCache};
use run::Run;
use signals::Interrupt;
use step::Learner;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result stands in this folder.
    Finished(PathBuf),
    /// A signal stopped it; it can be resumed.
    Interrupted(i32),
}

/// Runs a config from where it stands to its end.
///
/// # Errors
///
/// [`TrainError`]; checkpoints that stood before still do.
pub fn run(config: &RunConfig, plugin: Option<&Path>) -> Result<Outcome, TrainError> {
    let interrupt = Interrupt::listen()?;
    let checkpoint = match output::find_start(config)? {
        Start::Fresh => None,
        Start::Resume(checkpoint) => Some(checkpoint),
        Start::Finished(result) => {
            say(&format!("this run is finished: its result stands in {}, and nothing was done", result.display()));
            return Ok(Outcome::Finished(result));
        }
    };
    match train(config, plugin, checkpoint.as_deref(), &interrupt) {
        // The plugin's way to say that the progress callback asked to stop.
        Err(TrainError::Plugin(error)) if error.is_cancelled() => Ok(stopped_early(&interrupt)),
        other => other,
    }
}

fn stopped_early(interrupt: &Interrupt) -> Outcome {
    say("stopped before the first step; there is nothing to save, so start the run again as before");
    Outcome::Interrupted(interrupt.signal().unwrap_or(signal_hook::consts::SIGINT))
}

fn train(
    config: &RunConfig,
    plugin: Option<&Path>,
    checkpoint: Option<&Checkpoint>,
    interrupt: &Interrupt,
) -> Result<Outcome, TrainError> {
    let setup = Setup::new(config, plugin, checkpoint, interrupt)?;
    let data = Data::open(config, &setup.plugin, &setup.hub, &setup.folder, setup.cache.as_ref(), interrupt)?;
    let mut run = setup.run(&data)?;
    let base = setup.base_and_references(&mut run)?;
    if interrupt.signal().is_some() {
        return Ok(stopped_early(interrupt));
    }
    let learner = setup.learner(base, data.adapter_dimensions(config), run.reference.is_some())?;
    run.steps(learner, checkpoint)
}

/// What a run needs before it has data and a model.
struct Setup<'a> {
    config: &'a RunConfig,
    checkpoint: Option<&'a Checkpoint>,
    interrupt: &'a Interrupt,
    device: Device,
    plugin: Plugin,
    hub: Hub,
    /// None where the environment names no folder for it.
    cache: Option<CacheFolder>,
    /// Of `model.path`.
    folder: PathBuf,
    loss: LossOptions,
}

impl<'a> Setup<'a> {
    fn new(
        config: &'a RunConfig,
        plugin: Option<&Path>,
        checkpoint: Option<&'a Checkpoint>,
        interrupt: &'a Interrupt,
    ) -> Result<Self, TrainError> {
        let device = libtorch::prepare(&config.model.device)?;
        if let Some(checkpoint) = checkpoint {
            libtorch::set_num_threads(checkpoint.state.num_threads);
        }
        let plugin = Plugin::load(plugin)?;
        let hub = Hub::from_env();
        let cache = CacheFolder::from_env();
        let folder = hub.model_folder(&config.model.path)?;
        // Before hours of tokenising: an architecture that is not supported.
        if config.model.torchscript.is_none() {
            ModelConfig::load(&folder)?;
        }
        let loss = loss_options(config);
        Ok(Self { config, checkpoint, interrupt, device, plugin, hub, cache, folder, loss })
    }

    /// The run, at its first step or the one after the checkpoint.
    fn run<'r>(&'r self, data: &'r Data) -> Result<Run<'r>, TrainError> {
        let Self { config, checkpoint, .. } = *self;
        let (batches, eval) = data.batches(config, &self.plugin)?;
        let max_steps = config.train.max_steps.unwrap_or_else(|| batches.plan.max_steps(config.train.num_train_epochs));
        let settings = checkpoint::settings(&config.absolute()?);
        if let Some(checkpoint) = checkpoint {
            checkpoint.check(&settings, data.hash())?;
        }
        Ok(Run {
            config,
            interrupt: self.interrupt,
            max_steps,
            schedule: LrSchedule::new(&config.train, max_steps),
            dimensions: if config.stage == Stage::LambdaDpo { data.dimensions().to_vec() } else { Vec::new() },
            state: TrainerState {
                global_step: checkpoint.map_or(0, |checkpoint| checkpoint.state.global_step),
                max_steps,
                epoch: 0.0,
                step_in_epoch: 0,
                num_threads: libtorch::num_threads(),
                seed: config.seed,
                data_hash: data.hash().to_owned(),
                settings,
            },
            batches,
            eval,
            reference: None,
            eval_reference: None,
        })
    }

    /// The model that the policy starts from; s^ref, under a policy of its own or under that model.
    fn base_and_references(&self, run: &mut Run) -> Result<Learned, TrainError> {
        let kind = self.config.reference.kind;
        let foreign = match own_reference(self.config) {
            Some(path) if kind == ReferenceKind::Onnx => Some(Foreign::Onnx(OnnxPolicy::open(path, None)?)),
            Some(path) if kind == ReferenceKind::TorchScript => {
                Some(Foreign::Script(ScriptPolicy::open(path, self.device)?))
            }
            Some(path) => {
                let folder = self.hub.model_folder(path)?;
                let model = Model::load(&folder, self.device, policy::kind(self.config))?;
                self.compute_references(run, &model, &reference::model_key(&model, &folder)?)?;
                None
            }
            None => None,
        };
        let base = policy::load_base(self.config, &self.folder, self.device)?;
        match &foreign {
            Some(Foreign::Onnx(policy)) => self.foreign_references(run, &base, policy)?,
            Some(Foreign::Script(policy)) => self.foreign_references(run, &base, policy)?,
            None if run.reference.is_none() && has_reference(self.config) => {
                self.compute_references(run, base.scorer(), &base.key(&self.folder)?)?;
            }
            None => {}
        }
        Ok(base)
    }

    /// s^ref under a policy from elsewhere, which is first held to the weights that it should have.
    fn foreign_references(&self, run: &mut Run, base: &Learned, policy: &impl LogitsPolicy) -> Result<(), TrainError> {
        let is_original = self.config.model.init == Init::Pretrained;
        if self.config.reference.validate && is_original && self.checkpoint.is_none() {
            let (comparison, tolerance) = self.compare(run, base, policy)?;
            if !comparison.passed {
                return Err(TrainError::Reference {
                    path: policy.path().to_path_buf(),
                    found: comparison.token_log_probs.max,
                    tolerance,
                    record: comparison.worst.map_or(0, |worst| worst.record),
                    model: self.folder.clone(),
                });
            }
            say(&format!(
                "reference: over {} records the log-probs of {} are those of {} within {:.1e}",
                comparison.num_records,
                policy.path().display(),
                self.folder.display(),
                comparison.token_log_probs.max
            ));
        }
        self.compute_references(run, policy, &reference::policy_key(policy)?)
    }

    /// Over a sample of the records, spread evenly.
    fn compare(&self, run: &Run, base: &Learned, policy: &impl LogitsPolicy) -> Result<(Comparison, f64), TrainError> {
        const NUM_RECORDS: usize = 32;
        let dataset = run.batches.dataset;
        let count = dataset.len().min(NUM_RECORDS);
        let samples: Vec<usize> = (0..count).map(|number| number * dataset.len() / count).collect();
        let tolerance = usual_tolerance(base.kind(), policy.kind());
        let mut progress = Progress::new("validating the reference", count as u64, 0);
        let compared = compare((base.scorer(), policy), &self.plugin, (dataset, &samples), tolerance, &mut |done| {
            progress.update(done as u64, count as u64, "");
        });
        progress.clear();
        Ok((compared?, tolerance))
    }

    fn compute_references(&self, run: &mut Run, scorer: &dyn Scorer, key: &blake3::Hash) -> Result<(), TrainError> {
        let cache = match &self.cache {
            Some(cache) if self.config.reference.cache => Some(ReferenceCache::open(&cache.reference(), key)?),
            _ => None,
        };
        let Self { plugin, loss, interrupt, .. } = self;
        run.compute_references(&Reference { scorer, plugin, loss: *loss, cache, interrupt })
    }

    fn learner(
        &self,
        base: Learned,
        adapter_dimensions: Option<&[String]>,
        has_reference: bool,
    ) -> Result<Learner, TrainError> {
        let Self { config, checkpoint, loss, .. } = *self;
        let policy = Policy::start(config, &self.folder, base, adapter_dimensions, checkpoint)?;
        let mut optimizer = AdamW::new(policy.trainable()?, (&config.train).into())?;
        if let Some(checkpoint) = checkpoint {
            checkpoint.load_optimizer(&mut optimizer)?;
            say(&format!("resuming from {} after step {}", checkpoint.folder.display(), checkpoint.state.global_step));
        }
        let wants = policy.wants();
        Ok(Learner {
            policy,
            optimizer,
            plugin: self.plugin.clone(),
            loss: LossOptions { wants, ..loss },
            meaning: Meaning { beta: loss.beta, reduction: loss.reduction, has_reference },
            max_grad_norm: config.train.max_grad_norm,
            checkpointing: config.train.gradient_checkpointing,
            dropout_seed: config.adapter.as_ref().filter(|adapter| adapter.dropout > 0.0).map(|_| config.seed),
        })
    }
}

fn loss_options(config: &RunConfig) -> LossOptions {
    let loss = &config.loss;
    LossOptions {
        objective: if config.stage == Stage::Sft { Objective::Sft } else { Objective::Listwise },
        reduction: match loss.reduction {
            config::Reduction::Sum => Reduction::Sum,
            config::Reduction::Mean => Reduction::Mean,
        },
        beta: loss.beta,
        normalizer: None,
        logits_budget_bytes: usize::try_from(loss.logits_budget_mib << 20).unwrap_or(usize::MAX),
        paper_exact: loss.paper_exact,
        wants: Wants::default(),
    }
}

fn has_reference(config: &RunConfig) -> bool {
    config.stage != Stage::Sft && config.reference.kind != ReferenceKind::None
}

/// A reference policy that is no model of the program's own.
enum Foreign {
    Onnx(OnnxPolicy),
    Script(ScriptPolicy),
}

/// A reference policy of its own; without one the policy serves, as it was at the start.
fn own_reference(config: &RunConfig) -> Option<&Path> {
    config.reference.path.as_deref().filter(|_| has_reference(config))
}
