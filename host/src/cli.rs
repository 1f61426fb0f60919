//! The command line: names, flags and help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{DType, Format, MissingRating, Reduction};

/// λ-weighted listwise preference optimisation of language models.
#[derive(Debug, Parser)]
#[command(name = "lambda-dpo", version, about)]
pub struct Cli {
    /// The plugin library; without it LAMBDA_DPO_PLUGIN, then beside this program, then ../lib.
    #[arg(long, global = true, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train by a run config: stages sft, dpo, lambda_dpo.
    Train(TrainArgs),
    /// Turn records into samples with target distributions.
    Convert(ConvertArgs),
    /// Write the log-prob of every response of every record.
    Score(ScoreArgs),
    /// Continue a prompt.
    Generate(GenerateArgs),
    /// Measure what λ controls, over a grid of λ: steer.json, a table, and plots in a page.
    Steer(SteerArgs),
    /// Write a policy for other programs, adapter merged.
    Export(ExportArgs),
    /// Compare an ONNX policy with the model that it was made from; the exit status is 1 where they differ.
    Validate(ValidateArgs),
    /// Print the JSON Schema of a record, a sample or a run config.
    Schema(SchemaArgs),
}

/// `lambda-dpo train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The run config.
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Keys that take the place of the file's, as in train.learning_rate=1e-4.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// `lambda-dpo convert`
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Record files (JSON, JSON lines, Parquet), or names of hub datasets.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// The JSON lines to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Schema of the records: ultrafeedback, pairs or chat.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// What a missing rating becomes: mask, or a number (1.0 in the paper).
    #[arg(long, default_value = "mask", value_name = "mask|NUMBER")]
    pub missing: MissingRating,
    /// Temperature of the softmax over ratings.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Dimensions to use, in order; without it every one that occurs.
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub dimensions: Option<Vec<String>>,
}

/// Which policy.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Model folder in Hugging Face's layout, or its name on the hub.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Adapter folder in PEFT's format, or a λ-adapter's.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// λ of a λ-adapter; dimensions not named share the rest equally, and without it all weigh alike.
    #[arg(long, value_name = "NAME=W,…")]
    pub lambda: Option<String>,
    /// A chat template that takes the place of the tokenizer's own.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
}

/// What every command that runs a model takes.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Which policy.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// float32 or bfloat16.
    #[arg(long, default_value = "float32")]
    pub dtype: DType,
}

/// `lambda-dpo score`
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Record files (JSON, JSON lines, Parquet), or names of hub datasets.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Schema of the records: ultrafeedback, pairs or chat.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// The JSON lines to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// A TorchScript module that takes the place of the model's weights: a file, or a folder with model.pt.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["adapter", "lambda"])]
    pub torchscript: Option<PathBuf>,
}

/// `lambda-dpo generate`
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// No chat template: the BOS token and the prompt as it stands.
    #[arg(long)]
    pub raw: bool,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// 0 takes the most probable token each time; above 0 samples.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f64,
    /// Sample among the most probable tokens that together have this probability.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f64,
    /// Of the sampling.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// What to continue; may be empty. Without it, a chat in the terminal.
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
}

/// `lambda-dpo steer`
#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// In the place of --adapter: a LoRA for each dimension, mixed linearly by λ (a rewarded soup).
    #[arg(long, num_args = 1.., value_name = "NAME=DIR", conflicts_with = "adapter")]
    pub soup: Vec<String>,
    /// Held-out record files with ratings (JSON, JSON lines, Parquet), or names of hub datasets.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// The folder to write: steer.json, index.html.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Command that scores generated text: it reads lines {"prompt", "response"} and writes a line {"name": score, …} for
    /// each; without it nothing is generated.
    #[arg(long, value_name = "CMD")]
    pub rater: Option<String>,
    /// Steps from λ_k = 0 to 1.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub steps: usize,
    /// β of the training, for the listwise distribution.
    #[arg(long, default_value_t = 0.1)]
    pub beta: f64,
    /// s of the training: sum or mean.
    #[arg(long, default_value = "sum")]
    pub reduction: Reduction,
    /// Prompts to answer at each λ at most: the first of the records.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub num_prompts: usize,
    /// Answers to each prompt, each with random numbers of its own.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub num_samples: usize,
    /// Answers at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_new_tokens: usize,
    /// 0 takes the most probable token each time; above 0 samples.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Sample among the most probable tokens that together have this probability.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f64,
    /// Of the sampling.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// Earlier reports to draw and tabulate beside this one.
    #[arg(long, num_args = 1.., value_name = "NAME=DIR")]
    pub compare: Vec<String>,
}

/// `lambda-dpo export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Which policy; an adapter is folded into the weights, a λ-adapter at its λ.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Dtype of the weights; without it the model's own (hf, torchscript), float32 (onnx, and always peft).
    #[arg(long)]
    pub dtype: Option<ExportDType>,
    /// What to write.
    #[arg(long, value_name = "FORMAT")]
    pub to: ExportFormat,
    /// The folder to write, which must not exist.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
}

/// What a policy is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Hugging Face's layout: safetensors, sharded above 5 GB.
    Hf,
    /// The adapter alone, as an ordinary LoRA in PEFT's format: of a λ-adapter, what it is at one λ.
    Peft,
    /// A graph for ONNX Runtime: model.onnx, weights in a file of their own above 1.5 GB.
    Onnx,
    /// A module for libtorch: model.pt.
    #[value(name = "torchscript")]
    TorchScript,
}

/// Dtypes that weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportDType {
    /// float32
    #[value(name = "float32")]
    Float32,
    /// float16
    #[value(name = "float16")]
    Float16,
    /// bfloat16
    #[value(name = "bfloat16")]
    BFloat16,
}

/// `lambda-dpo validate`
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The policy: a file, or a folder with model.onnx.
    #[arg(long, value_name = "FILE")]
    pub onnx: PathBuf,
    /// Record files (JSON, JSON lines, Parquet), or names of hub datasets.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Schema of the records: ultrafeedback, pairs or chat.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// Largest difference of a token's log-prob that passes; without it 1e-4 for float32, 2e-2 for float16, 2e-1 for
    /// bfloat16.
    #[arg(long, value_name = "T")]
    pub tolerance: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The library of ONNX Runtime; without it ORT_DYLIB_PATH, beside libtorch, VIRTUAL_ENV, then the system's.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// `lambda-dpo schema`
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// What to describe.
    pub name: SchemaName,
}

/// The schemas that there are.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SchemaName {
    /// What record files hold.
    Record,
    /// What `convert` writes.
    Sample,
    /// What `train` reads.
    Config,
}

impl From<ExportDType> for tch::Kind {
    fn from(dtype: ExportDType) -> Self {
        match dtype {
            ExportDType::Float32 => Self::Float,
            ExportDType::Float16 => Self::Half,
            ExportDType::BFloat16 => Self::BFloat16,
        }
    }
}
