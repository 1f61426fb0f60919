//! From the config to a run that is ready for its first step.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::config::{Init, ReferenceKind, RunConfig, Stage};
use crate::console::{Progress, say};
use crate::files::cache_folder::CacheFolder;
use crate::files::hub::Hub;
use crate::libtorch;
use crate::metrics::MetricOptions;
use crate::model::{Model, ModelConfig};
use crate::plugin::{LossOptions, Objective, Plugin};
use crate::policy::compare::{Comparison, ComparisonInputs, compare, usual_tolerance};
use crate::policy::{LogitsPolicy, OnnxPolicy, Scorer, TorchScriptPolicy};

use super::TrainError;
use super::data::Data;
use super::durable::{Checkpoint, Interrupt, TrainerState, checkpoint};
use super::lr::LrSchedule;
use super::optimizer::AdamW;
use super::policy::{self, Learned, Policy};
use super::reference::{self, Reference, ReferenceCache};
use super::run::Run;
use super::step::Learner;

/// What a run needs before it has data and a model.
pub(super) struct Setup<'a> {
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
    pub(super) fn new(
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

    /// The records, tokenised.
    pub(super) fn data(&self) -> Result<Data, TrainError> {
        Data::open(self.config, &self.plugin, &self.hub, &self.folder, self.cache.as_ref(), self.interrupt)
    }

    /// The run, at its first step or the one after the checkpoint.
    pub(super) fn run<'r>(&'r self, data: &'r Data) -> Result<Run<'r>, TrainError> {
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
    pub(super) fn base_and_references(&self, run: &mut Run) -> Result<Learned, TrainError> {
        let kind = self.config.reference.kind;
        let foreign = match own_reference(self.config) {
            Some(path) if kind == ReferenceKind::Onnx => Some(Foreign::Onnx(OnnxPolicy::open(path, None)?)),
            Some(path) if kind == ReferenceKind::TorchScript => {
                Some(Foreign::Script(TorchScriptPolicy::open(path, self.device)?))
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
        let inputs = ComparisonInputs {
            model: base.scorer(),
            policy,
            plugin: &self.plugin,
            dataset,
            samples: &samples,
            tolerance,
        };
        let compared = compare(&inputs, &mut |done| progress.update(done as u64, count as u64, ""));
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

    pub(super) fn learner(
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
            metric_options: MetricOptions { beta: loss.beta, reduction: loss.reduction, has_reference },
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
        reduction: loss.reduction,
        beta: loss.beta,
        logits_budget_bytes: usize::try_from(loss.logits_budget_mib << 20).unwrap_or(usize::MAX),
        paper_exact: loss.paper_exact,
        ..LossOptions::default()
    }
}

fn has_reference(config: &RunConfig) -> bool {
    config.stage != Stage::Sft && config.reference.kind != ReferenceKind::None
}

/// A reference policy that is no model of the program's own.
enum Foreign {
    Onnx(OnnxPolicy),
    Script(TorchScriptPolicy),
}

/// A reference policy of its own; without one the policy serves, as it was at the start.
fn own_reference(config: &RunConfig) -> Option<&Path> {
    config.reference.path.as_deref().filter(|_| has_reference(config))
}
