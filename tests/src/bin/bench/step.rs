//! A training step as in the program: plugin through its table, the host's model and optimiser.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use lambda_dpo_host::config::{self, RunConfig};
use lambda_dpo_host::interrupt::Interrupt;
use lambda_dpo_host::libtorch;
use lambda_dpo_host::metrics::MetricOptions;
use lambda_dpo_host::model::{ForwardOptions, Model};
use lambda_dpo_host::plugin::{
    CollateOptions, ConvertOptions, Dataset, DatasetOptions, Layout, LossOptions, Plugin, TokenizeOptions, Wants,
};
use lambda_dpo_host::policy::batch_inputs::{log_probs, loss_inputs, model_inputs};
use lambda_dpo_host::policy::collation::Collation;
use lambda_dpo_host::train::data::{MicroBatch, schedule_options};
use lambda_dpo_host::train::optimizer::{AdamW, clip_scale};
use lambda_dpo_host::train::reference::{LogProbRequest, Reference, ReferenceLogProbs};
use lambda_dpo_host::train::step::Learner;
use lambda_dpo_host::train::trained_policy::{TrainableModel, TrainedPolicy, precision};
use serde_json::{Value, json};
use tch::Device;

use crate::serving::{Command, serve};

/// Answers `step`, `breakdown` (the parts of a step, timed one by one), `hidden` and `forward` (without gradients or adapter:
/// the hidden states, and those with the log-probs of the targets) and `reference` (its log-probs computed again).
///
/// # Errors
///
/// Returns an error if the scenario does not load or a step fails.
pub fn run(folder: &Path) -> Result<()> {
    let mut session = Some(Session::open(folder)?);
    serve(|command| match (command, &mut session) {
        (Command::Drop, session) => {
            *session = None;
            Ok(None)
        }
        (Command::Word("step"), Some(session)) => session.step().map(Some),
        (Command::Word("breakdown"), Some(session)) => session.breakdown().map(Some),
        (Command::Word("hidden"), Some(session)) => session.forward(Output::Hidden).map(Some),
        (Command::Word("forward"), Some(session)) => session.forward(Output::LogProbs).map(Some),
        (Command::Word("reference"), Some(session)) => session.reference().map(Some),
        (Command::Word(_), _) => Ok(None),
    })
}

/// A learner, and the batch that it uses for every step.
struct Session {
    learner: Learner,
    data: Data,
    micro_batches: Vec<MicroBatch>,
    reference: ReferenceLogProbs,
    learning_rate: f64,
    num_steps: u64,
}

/// How far a forward pass goes.
enum Output {
    Hidden,
    LogProbs,
}

impl Session {
    fn open(folder: &Path) -> Result<Self> {
        let mut config = config::load(&folder.join("run.toml"), std::iter::empty(), &[])?;
        let libtorch = libtorch::prepare(&config.model.device)?;
        let plugin = Plugin::load(None)?;
        let data = Data::open(&config, &plugin, libtorch.device())?;
        let loss = loss_options(&config);

        let TrainableModel::Native(mut base) = TrainableModel::load(&config, &config.model.path, libtorch)? else {
            bail!("run.toml trains a TorchScript module");
        };
        let adapter = folder.join("adapter");
        let reference = match &config.reference.path {
            Some(path) if !adapter.exists() => {
                let model = Model::load(path, libtorch, precision(&config.model))?;
                data.reference(&model, &plugin, loss)?
            }
            _ => data.reference(&base, &plugin, loss)?,
        };
        if adapter.exists() {
            base.load_adapter(&adapter)?;
            // The run shall not add another.
            config.adapter = None;
        }

        let base = TrainableModel::Native(base);
        let policy = TrainedPolicy::start(&config, &config.model.path, libtorch, base, None, None)?;
        let optimizer = AdamW::new(policy.trainable()?, (&config.train).into())?;
        let wants = policy.wants();
        let learner = Learner {
            policy,
            optimizer,
            plugin,
            loss: LossOptions { wants, ..loss },
            metric_options: MetricOptions { beta: loss.beta, reduction: loss.reduction, has_reference: true },
            max_grad_norm: config.train.max_grad_norm,
            checkpointing: config.train.gradient_checkpointing,
            dropout_seed: None,
        };
        Ok(Self {
            learner,
            micro_batches: vec![data.micro_batch()?],
            data,
            reference,
            learning_rate: config.train.learning_rate,
            num_steps: 0,
        })
    }

    fn step(&mut self) -> Result<Value> {
        let TrainableModel::Native(model) = &self.learner.policy.model else { bail!("the policy is no model") };
        let device = model.device();
        finish_queued_work(device);
        let started = Instant::now();
        let report =
            self.learner.step(self.num_steps, self.learning_rate, &self.micro_batches, Some(&self.reference))?;
        finish_queued_work(device);
        let seconds = started.elapsed().as_secs_f64();
        self.num_steps += 1;
        Ok(json!({ "seconds": seconds, "loss": report.totals.loss, "grad_norm": report.grad_norm }))
    }

    /// Takes the forward pass of the step's rows without the adapter.
    fn forward(&mut self, output: Output) -> Result<Value> {
        let Learner { policy, plugin, loss, .. } = &mut self.learner;
        let TrainableModel::Native(model) = &mut policy.model else { bail!("the policy is no model") };
        model.set_adapter_enabled(false);
        let batch = &self.micro_batches[0].batch;
        let started = Instant::now();
        match output {
            Output::Hidden => drop(model.hidden(&model_inputs(batch))?),
            Output::LogProbs => drop(log_probs(model, plugin, batch, loss)?),
        }
        let seconds = started.elapsed().as_secs_f64();
        model.set_adapter_enabled(true);
        Ok(json!({ "seconds": seconds }))
    }

    /// Computes the reference log-probs again with the policy, its adapter off: the cost does not depend on the
    /// weights.
    fn reference(&mut self) -> Result<Value> {
        let Learner { policy, plugin, loss, .. } = &mut self.learner;
        let TrainableModel::Native(model) = &mut policy.model else { bail!("the policy is no model") };
        model.set_adapter_enabled(false);
        let started = Instant::now();
        self.data.reference(model, plugin, LossOptions { wants: Wants::default(), ..*loss })?;
        let seconds = started.elapsed().as_secs_f64();
        model.set_adapter_enabled(true);
        Ok(json!({ "seconds": seconds }))
    }

    /// Takes a step like [`Learner::step`], timing its parts one by one.
    fn breakdown(&mut self) -> Result<Value> {
        let mut laps = Laps::new();
        let (learner, micro_batch) = (&mut self.learner, &self.micro_batches[0]);
        let TrainableModel::Native(model) = &learner.policy.model else { bail!("the policy is no model") };
        let options = LossOptions { normalizer: Some(micro_batch.batch.num_contributing as f64), ..learner.loss };

        let activations = model.forward(&model_inputs(&micro_batch.batch), &ForwardOptions::default())?;
        laps.end("model forward");
        let reference = self.reference.of(micro_batch)?;
        let hidden = activations.hidden();
        let inputs = loss_inputs(&micro_batch.batch, hidden, model.lm_head(), Some(&reference));
        let (_, context) = learner.plugin.loss_forward(&inputs, &options)?;
        laps.end("log-probs and loss forward");
        let gradients = context.context("the loss kept nothing for its backward")?.backward(&inputs, 1.0)?;
        laps.end("log-probs and loss backward");
        if let Some(gradient) = gradients.lm_head {
            model.accumulate_lm_head_grad(gradient)?;
        }
        laps.end("head gradient");
        activations.backward(&gradients.hidden.context("no gradient of the hidden states")?)?;
        laps.end("model backward");
        let norm = learner.optimizer.grad_norm()?;
        laps.end("gradient norm");
        learner.optimizer.step(self.learning_rate, clip_scale(norm, learner.max_grad_norm))?;
        laps.end("optimiser");
        self.num_steps += 1;
        Ok(laps.0)
    }
}

/// Waits until a CUDA device has finished all queued work.
fn finish_queued_work(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Seconds by name, each measured from the end of the previous one.
struct Laps(Value, Instant);

impl Laps {
    fn new() -> Self {
        Self(json!({}), Instant::now())
    }

    fn end(&mut self, name: &str) {
        self.0[name] = self.1.elapsed().as_secs_f64().into();
        self.1 = Instant::now();
    }
}

/// The records of a run, all in one micro-batch.
struct Data {
    dataset: Dataset,
    samples: Vec<usize>,
    lambda: Vec<f64>,
    collation: Collation,
    interrupt: Interrupt,
}

impl Data {
    fn open(config: &RunConfig, plugin: &Plugin, device: Device) -> Result<Self> {
        let tokenizer = plugin.tokenizer(&config.model.path, None)?;
        let cutoff_len = Some(usize::try_from(config.data.cutoff_len)?);
        let options = DatasetOptions {
            convert: ConvertOptions::default(),
            tokenize: TokenizeOptions { cutoff_len, keep_all: false },
            cache_dir: None,
        };
        let progress = &mut |_, _| ControlFlow::Continue(());
        let dataset = plugin.dataset(&config.data.records, &tokenizer, &options, progress)?;
        let options = CollateOptions {
            layout: Layout::Packed,
            max_tokens: config.loss.max_tokens.map(usize::try_from).transpose()?,
            pad_token_id: tokenizer.info()?.pad_token_id.unwrap_or(0),
        };
        let schedule = plugin.schedule(&schedule_options(&config.lambda, dataset.dimensions())?)?;
        Ok(Self {
            samples: (0..dataset.len()).collect(),
            lambda: schedule.draw_step(config.seed, 0)?.repeat(dataset.len()),
            collation: Collation { options, device },
            interrupt: Interrupt::listen()?,
            dataset,
        })
    }

    fn micro_batch(&self) -> Result<MicroBatch> {
        let (samples, lambda) = (self.samples.clone(), self.lambda.clone());
        let batch = self.dataset.batch(&samples, &lambda, &self.collation.of(&self.dataset, &samples))?;
        Ok(MicroBatch { batch, samples, lambda, adapter_lambda: None })
    }

    /// s^ref under `model`, computed without a cache.
    fn reference(&self, model: &Model, plugin: &Plugin, loss: LossOptions) -> Result<ReferenceLogProbs> {
        let request = LogProbRequest {
            dataset: &self.dataset,
            fixed_batches: vec![self.samples.clone()],
            samples: Vec::new(),
            collate: self.collation.options,
            max_tokens: usize::MAX,
        };
        let reference = Reference { scorer: model, plugin, loss, cache: None, interrupt: &self.interrupt };
        reference.log_probs(&[request])?.pop().context("the reference gave nothing")
    }
}

fn loss_options(config: &RunConfig) -> LossOptions {
    LossOptions {
        objective: config.objective(),
        reduction: config.reduction(),
        beta: config.loss.beta,
        paper_exact: config.loss.paper_exact,
        ..LossOptions::default()
    }
}
