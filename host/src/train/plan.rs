//! What a run needs, counted before the model is loaded: memory by part, and operations.

use std::path::Path;

use tch::Device;

use crate::config::{AdapterKind, Layout, RunConfig};
use crate::files::hub::Hub;
use crate::interrupt::Interrupt;
use crate::libtorch;
use crate::model::{Footprint, LoraConfig, ModelConfig, RowLengths};
use crate::policy::batch_inputs::{model_inputs, uniform_lambda};

use super::TrainError;
use super::data::{Data, RunBatches, TrainBatches};
use super::optimizer::MAX_WIDENED_BYTES;
use super::reference::has_reference;
use super::setup::{Setup, logits_budget_bytes};
use super::trained_policy::{lora, precision};

/// On a CPU, what the allocator keeps between tensors: a tenth of them. Measured: 3 to 12 % with float32, and 20 % in one of
/// eleven runs (models of 19 and 135 million parameters).
const KEPT_BY_ALLOCATOR: i64 = 10;

const GIB: f64 = (1u64 << 30) as f64;

/// The largest micro-batch of a run, and how many there are.
#[derive(Clone, Debug)]
pub struct Load {
    /// Lengths of its rows.
    pub rows: RowLengths,
    /// K, its target tokens.
    pub num_targets: i64,
    /// Tokens of all steps of the run, without padding.
    pub run_tokens: f64,
    /// Tokens of the samples whose reference log-probs are computed once, without padding.
    pub reference_tokens: f64,
}

/// Memory of the largest step of a run, in bytes. Parts that are not alive at the same time do not add up to the peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The model's weights.
    pub weights: i64,
    /// The adapter's parameters.
    pub adapter: i64,
    /// Moments and master weights of what is trained.
    pub optimizer: i64,
    /// Gradients of what is trained.
    pub gradients: i64,
    /// What the forward pass keeps for the backward pass.
    pub activations: i64,
    /// Logits and what is computed from them.
    pub loss: i64,
    /// What the backward pass of a layer needs besides.
    pub backward: i64,
    /// What the allocator keeps between tensors.
    pub allocator: i64,
    /// The largest sum of parts that are alive at the same time.
    pub peak: i64,
}

/// What a run needs.
#[derive(Clone, Copy, Debug)]
pub struct RunPlan {
    /// Memory of its largest step.
    pub memory: Memory,
    /// Parameters of the model.
    pub num_parameters: i64,
    /// Parameters that are trained.
    pub num_trained: i64,
    /// R · T of the largest micro-batch.
    pub num_positions: i64,
    /// Operations of the whole run, two for each product and sum; without padding and evaluations.
    pub operations: f64,
    /// Memory of the device that is free; None if that is not known.
    pub available_bytes: Option<u64>,
}

/// Lengths of the records of a run that are not there.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    /// Tokens of a prompt.
    pub prompt: i64,
    /// Responses to a prompt.
    pub num_responses: i64,
    /// Tokens of a response.
    pub response: i64,
    /// Records.
    pub num_records: u64,
}

/// A CUDA device that need not be there.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    bytes: u64,
}

impl Card {
    /// Takes a card's memory in GiB; None if it is no number above 0.
    #[must_use]
    pub fn new(gib: f64) -> Option<Self> {
        (gib.is_finite() && gib > 0.0).then_some(Self { bytes: (gib * GIB) as u64 })
    }
}

impl Memory {
    /// Returns the parts with their names.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, i64); 8] {
        [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("optimizer", self.optimizer),
            ("gradients", self.gradients),
            ("activations kept for backward", self.activations),
            ("logits and their gradients", self.loss),
            ("backward pass of a layer", self.backward),
            ("between tensors", self.allocator),
        ]
    }
}

impl RunPlan {
    /// Plans the run that a config describes, from its records.
    ///
    /// # Errors
    ///
    /// Returns a [`TrainError`] if the records or the model's `config.json` cannot be read, or the model is a TorchScript
    /// module.
    pub fn of_records(config: &RunConfig, plugin: Option<&Path>) -> Result<Self, TrainError> {
        let interrupt = Interrupt::listen()?;
        let setup = Setup::new(config, plugin, None, &interrupt)?;
        let data = Data::open(&setup)?;
        let batches = data.batches(config, &setup.plugin)?;
        Self::of_run(&setup, &data, &batches)?.ok_or(TrainError::NotPlanned)
    }

    /// Plans the run that a config describes for records of known lengths, on its device or on a card.
    ///
    /// # Errors
    ///
    /// Returns a [`TrainError`] if the model's `config.json` cannot be read, the model is a TorchScript module, or the
    /// dimensions of a λ-adapter are not in the config.
    pub fn of_lengths(config: &RunConfig, lengths: Lengths, card: Option<Card>) -> Result<Self, TrainError> {
        if config.model.torchscript.is_some() {
            return Err(TrainError::NotPlanned);
        }
        let model = ModelConfig::load(&Hub::from_env().model_folder(&config.model.path)?)?;
        let (device, available_bytes) = match card {
            Some(card) => (Device::Cuda(0), Some(card.bytes)),
            None => {
                let libtorch = libtorch::prepare(&config.model.device)?;
                (libtorch.device(), available_bytes(libtorch.device()))
            }
        };
        let adapter = match &config.adapter {
            Some(adapter) if adapter.kind == AdapterKind::LambdaLora => {
                Some(lora(adapter, Some(config.data.dimensions.as_ref().ok_or(TrainError::DimensionsNotPlanned)?)))
            }
            adapter => adapter.as_ref().map(|adapter| lora(adapter, None)),
        };
        let Lengths { prompt, num_responses, response, num_records } = lengths;
        let train = &config.train;
        let num_prompts = usize::try_from(train.per_device_train_batch_size).unwrap_or(usize::MAX);
        let responses = vec![response; usize::try_from(num_responses).unwrap_or(usize::MAX)];
        let rows = match config.loss.layout {
            Layout::Packed => RowLengths::uniform(num_prompts, prompt, &responses),
            Layout::Rows | Layout::Expanded => {
                RowLengths::uniform(num_prompts * responses.len(), prompt, &responses[..1])
            }
        };
        let per_step = train.per_device_train_batch_size * train.gradient_accumulation_steps;
        let num_samples =
            train.max_steps.map_or(num_records as f64 * train.num_train_epochs, |steps| (steps * per_step) as f64);
        let sample_tokens = rows.num_positions() as f64 / num_prompts as f64;
        let load = Load {
            num_targets: num_prompts as i64 * num_responses * response,
            rows,
            run_tokens: num_samples * sample_tokens,
            reference_tokens: num_samples.min(num_records as f64) * sample_tokens,
        };
        let free = if device.is_cuda() { available_bytes } else { None };
        let budget = logits_budget_bytes(config.loss.logits_budget_mib, free);
        Ok(Self { available_bytes, ..Self::of_load(config, &model, adapter.as_ref(), &load, device, budget) })
    }

    /// Counts what a run needs; None for a TorchScript module, of which nothing is known.
    pub(super) fn of_run(setup: &Setup, data: &Data, batches: &RunBatches) -> Result<Option<Self>, TrainError> {
        let config = setup.config;
        let Some(model) = data.model() else { return Ok(None) };
        let load = load_of(&batches.train, batches.max_steps)?;
        let adapter = config.adapter.as_ref().map(|adapter| lora(adapter, data.adapter_dimensions(config)));
        let budget = setup.loss.logits_budget_bytes;
        Ok(Some(Self::of_load(config, model, adapter.as_ref(), &load, setup.libtorch.device(), budget)))
    }

    /// Returns a warning if the device has less memory than the largest step needs.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let available = self.available_bytes?;
        let needed = u64::try_from(self.memory.peak).ok().filter(|needed| *needed > available)?;
        Some(format!(
            "warning: the largest step needs about {}, but {} are free: lower train.per_device_train_batch_size or \
             data.cutoff_len, set train.gradient_checkpointing, or train an adapter (`lambda-dpo plan` prints the parts)",
            gib(needed as f64),
            gib(available as f64)
        ))
    }

    /// Counts what a run of known shapes needs.
    pub fn of_load(
        config: &RunConfig,
        model: &ModelConfig,
        adapter: Option<&LoraConfig>,
        load: &Load,
        device: Device,
        logits_budget_bytes: usize,
    ) -> Self {
        let precision = precision(&config.model);
        let footprint = Footprint { config: model, precision, adapter, device };
        let checkpointing = config.train.gradient_checkpointing;
        let accumulates = config.train.gradient_accumulation_steps > 1;
        Self {
            memory: memory(&footprint, load, checkpointing, accumulates, logits_budget_bytes as i64),
            num_parameters: footprint.num_parameters(),
            num_trained: footprint.num_trained(),
            num_positions: load.rows.num_positions(),
            operations: operations(&footprint, load, checkpointing, has_reference(config)),
            available_bytes: available_bytes(device),
        }
    }
}

/// Writes bytes as GiB.
#[must_use]
pub fn gib(bytes: f64) -> String {
    format!("{:.2} GiB", bytes / GIB)
}

/// Returns the memory that is free on a device; None if it is not there.
fn available_bytes(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => libtorch::available_memory_bytes(),
        device => libtorch::free_device_memory_bytes(device),
    }
}

/// Finds the largest micro-batch of a run's first epoch, by its positions with padding, and counts tokens. Later epochs pair
/// other samples, but a run of many steps must not look at all of them before it starts.
fn load_of(train: &TrainBatches, max_steps: u64) -> Result<Load, TrainError> {
    let num_tokens = |sample: &usize| train.dataset.samples()[*sample].num_tokens;
    // Prompts of a micro-batch are padded to the longest one, unless they share rows.
    let size = |samples: &Vec<usize>| {
        let longest = samples.iter().map(num_tokens).max().unwrap_or(0);
        let sum: usize = samples.iter().map(num_tokens).sum();
        if train.collation.of(train.dataset, samples).max_tokens.is_some() { sum } else { longest * samples.len() }
    };
    let steps_per_epoch = train.plan.steps_per_epoch();
    let micro_batches = (0..steps_per_epoch.min(max_steps)).flat_map(|step| train.samples_of(step));
    let largest = micro_batches.max_by_key(size).unwrap_or_default();
    let lambda = uniform_lambda(train.dataset.dimensions().len()).repeat(largest.len());
    let batch = train.dataset.batch(&largest, &lambda, &train.collation.of(train.dataset, &largest))?;
    let num_epochs = max_steps as f64 / steps_per_epoch.max(1) as f64;
    let epoch_tokens = train.samples.iter().map(num_tokens).sum::<usize>() as f64;
    Ok(Load {
        rows: RowLengths::read(&model_inputs(&batch))?,
        num_targets: batch.target_ids.numel() as i64,
        run_tokens: epoch_tokens * num_epochs,
        reference_tokens: epoch_tokens * num_epochs.min(1.0),
    })
}

/// Adds up what is alive at the same time: after the forward pass, when the backward pass begins, when it ends, and in the
/// update.
fn memory(
    footprint: &Footprint,
    load: &Load,
    checkpointing: bool,
    accumulates: bool,
    logits_budget_bytes: i64,
) -> Memory {
    let (trained, element) = (footprint.num_trained(), footprint.trained_element_bytes());
    let has_adapter = footprint.adapter.is_some();
    let is_narrow = element < 4;
    let weights = footprint.weight_bytes();
    let adapter = if has_adapter { trained * element } else { 0 };
    // Two moments in float32, and float32 weights of what is held in 16 bits.
    let optimizer = trained * if is_narrow { 12 } else { 8 };
    let gradients = trained * element;
    // The sum of a step's gradients is float32.
    let accumulated = if accumulates && is_narrow {
        4 * trained
    } else if accumulates {
        gradients
    } else {
        0
    };
    let activations = footprint.kept_bytes(&load.rows, checkpointing);
    let loss = footprint.loss_bytes(&load.rows, load.num_targets, logits_budget_bytes);
    let backward = footprint.backward_bytes(&load.rows);
    let always = weights + adapter + optimizer + accumulated;
    let widened = if is_narrow { (4 * trained).min(MAX_WIDENED_BYTES as i64) } else { 0 };
    let in_forward = activations + loss.max(backward);
    let at_the_end = if accumulates && !is_narrow { 0 } else { gradients } + backward.max(widened);
    let tensors = always + in_forward.max(at_the_end);
    let allocator = if footprint.device == Device::Cpu { tensors / KEPT_BY_ALLOCATOR } else { 0 };
    Memory {
        weights,
        adapter,
        optimizer,
        gradients: gradients + if is_narrow { accumulated } else { 0 },
        activations,
        loss,
        backward,
        allocator,
        peak: tensors + allocator,
    }
}

/// Operations of all steps and of the reference pass.
fn operations(footprint: &Footprint, load: &Load, checkpointing: bool, has_reference: bool) -> f64 {
    let positions = load.rows.num_positions().max(1) as f64;
    let head = footprint.head_operations(load.num_targets);
    let forward = footprint.forward_operations(&load.rows);
    let step = forward + footprint.backward_operations(&load.rows, checkpointing) + head.forward + head.backward;
    let reference = if has_reference { forward + head.forward } else { 0.0 };
    // By token, as in the largest micro-batch: the share of attention in shorter ones is smaller.
    step / positions * load.run_tokens + reference / positions * load.reference_tokens
}
