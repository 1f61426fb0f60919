//! The run config that `lambda-dpo train` reads, with the default of every key.
//!
//! Layers, of which later ones win: defaults, the file, `LAMBDA_DPO__SECTION__KEY` in the environment, `key=value` on the
//! command line ([`load`]). Unknown keys are errors; contradictions are found before anything is loaded ([`validate`]).

mod choices;
mod error;
mod keys;
mod layer;
mod load;
mod schema;
mod validate;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use choices::{
    AdapterKind, DType, Init, LrSchedulerType, Normalization, Per, Quantization, ReferenceKind, Schedule, Stage,
};
pub use error::ConfigError;
pub use lambda_dpo_concepts::{Format, Layout, Objective, Reduction};
pub use load::load;
pub use schema::schema;
pub use validate::{LAMBDA_TOLERANCE, repeated};
pub use values::{MissingRating, TargetModules};

use values::{number, optional_number, optional_whole, whole};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// What the run does.
    pub stage: Stage,
    /// Where everything is written.
    pub output_dir: PathBuf,
    /// Seeds data order, λ, dropout, and random weights.
    #[serde(default = "default_seed", deserialize_with = "whole")]
    pub seed: u64,
    /// The policy.
    #[serde(default)]
    pub model: ModelSection,
    /// Train an adapter; None is full fine-tuning.
    #[serde(default)]
    pub adapter: Option<AdapterSection>,
    /// The reference policy (dpo, lambda_dpo).
    #[serde(default)]
    pub reference: ReferenceSection,
    /// The records.
    #[serde(default)]
    pub data: DataSection,
    /// How λ is drawn (lambda_dpo).
    #[serde(default)]
    pub lambda: LambdaSection,
    /// The loss.
    #[serde(default)]
    pub loss: LossSection,
    /// The optimiser, its schedule, and what is written when.
    #[serde(default)]
    pub train: TrainSection,
}

fn default_seed() -> u64 {
    42
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A folder in Hugging Face's layout, or a name on the hub.
    pub path: PathBuf,
    /// Where the first weights come from.
    pub init: Init,
    /// Dtype of weights and forward.
    pub dtype: DType,
    /// Holds the weights of linear layers in 4 bits, on which an adapter is trained; None leaves them as they are stored.
    pub quantize: Option<Quantization>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// CUDA: let products of float32 matrices round their factors to TF32, which is faster.
    pub tf32: bool,
    /// A TorchScript module that is trained in the place of the model; `path` then needs the tokenizer only. It is a program
    /// that runs with your rights: use only modules that you trust.
    pub torchscript: Option<PathBuf>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            init: Init::Pretrained,
            dtype: DType::Float32,
            quantize: None,
            device: "auto".into(),
            tf32: false,
            torchscript: None,
        }
    }
}

/// `[adapter]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSection {
    /// The kind.
    pub kind: AdapterKind,
    /// Rank of the update; of a λ-adapter, of the part that all λ share, which may be 0.
    #[serde(deserialize_with = "whole")]
    pub rank: u64,
    /// λ-adapter: rank of each dimension's part; None is `rank`.
    #[serde(deserialize_with = "optional_whole")]
    pub rank_per_dimension: Option<u64>,
    /// The update is scaled by alpha / rank, that of a λ-adapter by alpha / rank_per_dimension; None is twice that rank.
    #[serde(deserialize_with = "optional_number")]
    pub alpha: Option<f64>,
    /// Dropout on the adapter's input.
    #[serde(deserialize_with = "number")]
    pub dropout: f64,
    /// Which linear layers.
    pub target_modules: TargetModules,
}

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            kind: AdapterKind::Lora,
            rank: 8,
            rank_per_dimension: None,
            alpha: None,
            dropout: 0.0,
            target_modules: TargetModules::AllLinear,
        }
    }
}

/// `[reference]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceSection {
    /// What s^ref is.
    pub kind: ReferenceKind,
    /// A model of its own for kind `model`; the file or folder of kinds `onnx` and `torchscript`, of which the latter is a
    /// program that runs with your rights.
    pub path: Option<PathBuf>,
    /// Kinds `onnx` and `torchscript`: compare with the weights of `model.path` over 32 records first.
    pub validate: bool,
    /// Keep its log-probs on disk for later runs.
    pub cache: bool,
}

impl Default for ReferenceSection {
    fn default() -> Self {
        Self { kind: ReferenceKind::Auto, path: None, validate: true, cache: true }
    }
}

/// `[data]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataSection {
    /// Files, patterns of files, or hub datasets (`owner/name@revision:split`), to train on.
    pub records: Vec<PathBuf>,
    /// Files, patterns of files, or hub datasets (`owner/name@revision:split`), to evaluate on.
    pub eval_records: Vec<PathBuf>,
    /// Share of `records` that is held out for evaluation instead.
    #[serde(deserialize_with = "number")]
    pub eval_fraction: f64,
    /// Schema of the files; None is what the stage usually takes.
    pub format: Option<Format>,
    /// Dimensions to use, in order; None is every one that occurs, sorted.
    pub dimensions: Option<Vec<String>>,
    /// Bound on prompt + longest response, in tokens.
    #[serde(deserialize_with = "whole")]
    pub cutoff_len: u64,
    /// What a missing rating becomes.
    pub missing_rating: MissingRating,
    /// Temperature of the softmax over ratings (13).
    #[serde(deserialize_with = "number")]
    pub temperature: f64,
    /// Records to read at most.
    #[serde(deserialize_with = "optional_whole")]
    pub max_samples: Option<u64>,
    /// Records from these sources are left out.
    pub exclude_sources: Vec<String>,
    /// A chat template that takes the place of the tokenizer's own.
    pub chat_template: Option<PathBuf>,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            eval_records: Vec::new(),
            eval_fraction: 0.0,
            format: None,
            dimensions: None,
            cutoff_len: 2048,
            missing_rating: MissingRating::Mask,
            temperature: 1.0,
            max_samples: None,
            exclude_sources: Vec::new(),
            chat_template: None,
        }
    }
}

/// `[lambda]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LambdaSection {
    /// How λ is drawn.
    pub schedule: Schedule,
    /// α of the Dirichlet distribution.
    #[serde(deserialize_with = "number")]
    pub alpha: f64,
    /// How the Gaussian schedule reaches the simplex.
    pub normalization: Normalization,
    /// Name of the dimension, or `cycle` (unimodal).
    pub dimension: Option<String>,
    /// How often λ is drawn.
    pub per: Per,
    /// λ by name (fixed); dimensions not named weigh 0.
    pub weights: Option<BTreeMap<String, f64>>,
    /// Rows of λ (table).
    pub table: Option<Vec<LambdaRow>>,
}

impl Default for LambdaSection {
    fn default() -> Self {
        Self {
            schedule: Schedule::Dirichlet,
            alpha: 1.0,
            normalization: Normalization::Softmax,
            dimension: None,
            per: Per::Instance,
            weights: None,
            table: None,
        }
    }
}

/// A row of `lambda.table`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LambdaRow {
    /// How often the row is drawn, relative to the others.
    #[serde(deserialize_with = "number")]
    pub probability: f64,
    /// λ by name; dimensions not named weigh 0.
    pub weights: BTreeMap<String, f64>,
}

/// `[loss]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LossSection {
    /// The loss of the stage: `sft` (sft), `sigmoid`, `hinge`, `ipo`, `simpo`, `orpo` (dpo), `listwise`, `plackett_luce`
    /// (lambda_dpo); None is the first of these.
    pub kind: Option<Objective>,
    /// β (17); usual are 0.01 to 0.5 with sums of log-probs, 0.1 to 10 with means, 0.01 to 1 for ipo, 2 to 10 for simpo,
    /// and 0.05 to 1 for orpo.
    #[serde(deserialize_with = "number")]
    pub beta: f64,
    /// sigmoid: the probability that a preference is wrong, below 0.5.
    #[serde(deserialize_with = "number")]
    pub label_smoothing: f64,
    /// simpo: the margin γ; None is 0.5.
    #[serde(deserialize_with = "optional_number")]
    pub simpo_gamma: Option<f64>,
    /// Weight of the mean negative log-likelihood of the best response (under λ), which is added to the loss;
    /// LLaMA-Factory's `pref_ftx`, TRL's `rpo_alpha`.
    #[serde(deserialize_with = "number")]
    pub sft_weight: f64,
    /// What s is; None is the mean over tokens for ipo, simpo and orpo, and the sum for the others.
    pub reduction: Option<Reduction>,
    /// How a batch is laid out.
    pub layout: Layout,
    /// Packed layout: prompts share a row up to this many tokens; None is one prompt a row, or on a CPU one row for all
    /// prompts of a micro-batch where that computes less.
    #[serde(deserialize_with = "optional_whole")]
    pub max_tokens: Option<u64>,
    /// MiB of logits that may be alive at once; None is 256, and on CUDA 1/32 of the free memory if that is more.
    #[serde(deserialize_with = "optional_whole")]
    pub logits_budget_mib: Option<u64>,
    /// Reproduce Appendix B of the paper.
    pub paper_exact: bool,
}

impl Default for LossSection {
    fn default() -> Self {
        Self {
            kind: None,
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: None,
            sft_weight: 0.0,
            reduction: None,
            layout: Layout::Packed,
            max_tokens: None,
            logits_budget_mib: None,
            paper_exact: false,
        }
    }
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSection {
    /// Peak learning rate.
    #[serde(deserialize_with = "number")]
    pub learning_rate: f64,
    /// Passes over the data.
    #[serde(deserialize_with = "number")]
    pub num_train_epochs: f64,
    /// Optimiser steps; takes the place of `num_train_epochs` where set.
    #[serde(deserialize_with = "optional_whole")]
    pub max_steps: Option<u64>,
    /// Prompts in a micro-batch.
    #[serde(deserialize_with = "whole")]
    pub per_device_train_batch_size: u64,
    /// Micro-batches in an optimiser step.
    #[serde(deserialize_with = "whole")]
    pub gradient_accumulation_steps: u64,
    /// How the learning rate moves.
    pub lr_scheduler_type: LrSchedulerType,
    /// Share of the steps that warm up.
    #[serde(deserialize_with = "number")]
    pub warmup_ratio: f64,
    /// Gradients are scaled down to this norm; 0 is off.
    #[serde(deserialize_with = "number")]
    pub max_grad_norm: f64,
    /// Decoupled weight decay; norms and biases are left out.
    #[serde(deserialize_with = "number")]
    pub weight_decay: f64,
    /// Decay of the first moment.
    #[serde(deserialize_with = "number")]
    pub adam_beta1: f64,
    /// Decay of the second moment.
    #[serde(deserialize_with = "number")]
    pub adam_beta2: f64,
    /// Added to the root of the second moment.
    #[serde(deserialize_with = "number")]
    pub adam_epsilon: f64,
    /// Recompute activations per decoder layer in the backward.
    pub gradient_checkpointing: bool,
    /// Use only algorithms that give the same bits in every run; on the CPU all do.
    pub deterministic: bool,
    /// Steps between lines of `metrics.jsonl`.
    #[serde(deserialize_with = "whole")]
    pub logging_steps: u64,
    /// Steps between checkpoints; 0 is none but on interruption.
    #[serde(deserialize_with = "whole")]
    pub save_steps: u64,
    /// Checkpoints to keep; None is all.
    #[serde(deserialize_with = "optional_whole")]
    pub save_total_limit: Option<u64>,
    /// Steps between evaluations; None is before the first and after the last step only.
    #[serde(deserialize_with = "optional_whole")]
    pub eval_steps: Option<u64>,
    /// `no`, `auto`, or a checkpoint folder.
    pub resume: String,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            num_train_epochs: 3.0,
            max_steps: None,
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            lr_scheduler_type: LrSchedulerType::Linear,
            warmup_ratio: 0.0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            gradient_checkpointing: false,
            deterministic: false,
            logging_steps: 1,
            save_steps: 500,
            save_total_limit: None,
            eval_steps: None,
            resume: "no".into(),
        }
    }
}

impl AdapterSection {
    /// Returns the numerator of the scale; by default twice its denominator.
    pub fn lora_alpha(&self) -> f64 {
        let rank = match self.kind {
            AdapterKind::Lora => self.rank,
            AdapterKind::LambdaLora => self.rank_of_a_dimension(),
        };
        self.alpha.unwrap_or(2.0 * rank as f64)
    }

    /// Returns the rank of each dimension's part of a λ-adapter.
    pub fn rank_of_a_dimension(&self) -> u64 {
        self.rank_per_dimension.unwrap_or(self.rank)
    }
}

/// LLaMA-Factory's and TRL's.
const DEFAULT_SIMPO_GAMMA: f64 = 0.5;

impl RunConfig {
    /// Returns the objective of the run.
    pub fn objective(&self) -> Objective {
        self.loss.kind.unwrap_or(self.stage.objectives()[0])
    }

    /// Returns what s is.
    pub fn reduction(&self) -> Reduction {
        self.loss.reduction.unwrap_or(self.objective().default_reduction())
    }

    /// Returns γ of `simpo`; 0 for the other objectives, which have none.
    pub fn simpo_gamma(&self) -> f64 {
        match self.objective() {
            Objective::Simpo => self.loss.simpo_gamma.unwrap_or(DEFAULT_SIMPO_GAMMA),
            _ => 0.0,
        }
    }

    /// Returns the config with absolute paths, so that it means the same wherever it is read.
    ///
    /// # Errors
    ///
    /// Returns an error if the current folder is not known.
    pub fn absolute(&self) -> std::io::Result<Self> {
        let mut config = self.clone();
        let is_path =
            |path: &PathBuf| path.exists() || !path.to_str().is_some_and(crate::files::hub::is_repository_name);
        let paths = [&mut config.model.path].into_iter().chain(&mut config.reference.path);
        let records = config.data.records.iter_mut().chain(&mut config.data.eval_records);
        for path in paths.chain(records).filter(|path| is_path(path)) {
            *path = std::path::absolute(&*path)?;
        }
        let files = config.data.chat_template.iter_mut().chain(&mut config.model.torchscript);
        for path in [&mut config.output_dir].into_iter().chain(files) {
            *path = std::path::absolute(&*path)?;
        }
        Ok(config)
    }
}
