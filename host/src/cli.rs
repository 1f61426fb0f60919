//! The command line: commands, flags and help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::answers::AnswerFormat;
use crate::config::{DType, Format, MissingRating, Quantization, Reduction};
use crate::schedule::Form;

/// λ-weighted listwise preference optimisation of language models.
#[derive(Debug, Parser)]
#[command(name = "lambda-dpo", version, about)]
pub struct Cli {
    /// Plugin library [default: LAMBDA_DPO_PLUGIN, else beside this program, else in ../lib].
    #[arg(long, global = true, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model as a run config describes (stages sft, dpo and lambda_dpo).
    Train(TrainArgs),
    /// Print the memory and the operations that a run needs, before it starts.
    Plan(PlanArgs),
    /// Convert records to samples with target distributions.
    Convert(ConvertArgs),
    /// Write the log-probs of the responses of each record.
    Score(ScoreArgs),
    /// Continue a prompt, answer a file of prompts, or chat in the terminal.
    Generate(GenerateArgs),
    /// Measure what λ controls over a grid of λ: writes steer.json and a page of plots, and prints tables.
    Steer(SteerArgs),
    /// Put several runs and evaluations side by side: prints tables, and writes report.json and a page of curves and bars.
    Report(ReportArgs),
    /// Make a λ schedule from results.
    Schedule(ScheduleArgs),
    /// Measure a policy on every axis: held-out records, divergence from its reference, length, win rate.
    Evaluate(Box<EvaluateArgs>),
    /// Serve a model over OpenAI's API, with a λ for every request, and a page to try it.
    Serve(ServeArgs),
    /// Export a policy for other programs, with its adapter merged.
    Export(ExportArgs),
    /// Compare an ONNX policy with the model it was exported from; the exit status is 1 if they differ.
    Validate(ValidateArgs),
    /// Print the JSON Schema of a record, a sample, a run config or a report.
    Schema(SchemaArgs),
}

/// `lambda-dpo train`
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Run config.
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Keys that override the file, for example train.learning_rate=1e-4.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

/// `lambda-dpo plan`
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Run config. Of the model, only config.json is read.
    #[arg(value_name = "CONFIG.toml")]
    pub config: PathBuf,
    /// Keys that override the file, for example train.gradient_checkpointing=true.
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
    /// Plan for prompts of P tokens with N responses of R tokens each instead of reading data.records.
    #[arg(long, value_name = "P,N,R", value_delimiter = ',')]
    pub lengths: Option<Vec<i64>>,
    /// Number of records, with --lengths.
    #[arg(long, value_name = "N", requires = "lengths", default_value_t = 1)]
    pub num_records: u64,
    /// Plan for a CUDA device with this much memory instead of the device of the config, with --lengths.
    #[arg(long, value_name = "GIB", requires = "lengths")]
    pub card_gib: Option<f64>,
    /// Operations per second that the device reaches, in 10¹²: prints how long the run takes.
    #[arg(long, value_name = "N")]
    pub tflops: Option<f64>,
}

/// `lambda-dpo convert`
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// Record files (JSON, JSON lines or Parquet; or a pattern of them), or Hugging Face datasets (owner/name:split).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// JSON lines file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Format of the records: ultrafeedback, pairs, chat or rankings.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// How missing ratings are handled: mask leaves the response out of that dimension, a number replaces them (1.0 in
    /// the paper).
    #[arg(long, default_value = "mask", value_name = "mask|NUMBER")]
    pub missing: MissingRating,
    /// Temperature of the softmax over ratings.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Dimensions to use, in this order [default: all that occur, sorted].
    #[arg(long, value_delimiter = ',', value_name = "A,B")]
    pub dimensions: Option<Vec<String>>,
}

/// Arguments that name a policy.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Model folder in Hugging Face's format, or its name on the Hugging Face hub.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Folder of a LoRA in PEFT's format, or of a λ-adapter.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// λ of a λ-adapter; dimensions not named share the rest equally [default: uniform].
    #[arg(long, value_name = "NAME=W,…")]
    pub lambda: Option<String>,
    /// Holds the weights of linear layers in 4 bits: nf4, as the adapter was trained. Weights that are stored so stay in 4
    /// bits without it.
    #[arg(long, value_name = "nf4")]
    pub quantize: Option<Quantization>,
    /// Chat template to use instead of the tokenizer's own.
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
}

/// Arguments of the commands that run a model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// The policy.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Device: auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Dtype of the weights: float32 or bfloat16.
    #[arg(long, default_value = "float32")]
    pub dtype: DType,
}

/// `lambda-dpo score`
#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Record files (JSON, JSON lines or Parquet; or a pattern of them), or Hugging Face datasets (owner/name:split).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Format of the records: ultrafeedback, pairs, chat or rankings.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// JSON lines file to write.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// TorchScript module to score instead of the model's weights: a file, or a folder with model.pt. It is a program that
    /// runs with your rights: use only modules that you trust.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["adapter", "lambda"])]
    pub torchscript: Option<PathBuf>,
}

/// `lambda-dpo generate`
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Continue the BOS token and the prompt as given, without a chat template.
    #[arg(long)]
    pub raw: bool,
    /// Tokens to generate, at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most probable token.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f64,
    /// Sample from the most probable tokens whose probabilities add up to P.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// File of prompts to answer: JSON lines or a JSON array of objects with `prompt`, `messages`, `instruction` or `turns`.
    #[arg(long, value_name = "FILE", requires = "out", conflicts_with_all = ["prompt", "raw"])]
    pub prompts: Option<PathBuf>,
    /// File to write the answers to.
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub out: Option<PathBuf>,
    /// Format of the answers, as their harness reads them.
    #[arg(long, default_value = "jsonl", requires = "prompts")]
    pub format: AnswerFormat,
    /// Name of the model in the answers [default: that of its folder, with λ].
    #[arg(long, value_name = "NAME", requires = "prompts")]
    pub name: Option<String>,
    /// Answers to generate at once.
    #[arg(long, default_value_t = 16, value_name = "N", requires = "prompts")]
    pub batch_size: usize,
    /// Prompt to continue, which may be empty; without one, chats in the terminal.
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
}

/// `lambda-dpo steer`
#[derive(Debug, Args)]
pub struct SteerArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// LoRA for each dimension, to be mixed linearly by λ instead of using --adapter (a rewarded soup).
    #[arg(long, num_args = 1.., value_name = "NAME=DIR", conflicts_with = "adapter")]
    pub soup: Vec<String>,
    /// Held-out records with ratings or rankings: files (JSON, JSON lines or Parquet), or Hugging Face datasets (owner/name:split).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Format of the records: ultrafeedback or rankings.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// Folder to write steer.json and index.html to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Command that scores generated text: it reads lines {"prompt", "response"} and writes a line {"name": score, …}
    /// for each. Without it, no text is generated.
    #[arg(long, value_name = "CMD")]
    pub rater: Option<String>,
    /// Steps of the grid from λ_k = 0 to 1.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub steps: usize,
    /// β that the adapter was trained with.
    #[arg(long, default_value_t = 0.1)]
    pub beta: f64,
    /// Reduction that the adapter was trained with: sum or mean of token log-probs.
    #[arg(long, default_value = "sum")]
    pub reduction: Reduction,
    /// Prompts to answer at each λ, at most: those of the first records.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub num_prompts: usize,
    /// Answers to each prompt, each with different random numbers.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub num_samples: usize,
    /// Answers to generate at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Tokens of an answer, at most.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most probable token.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Sample from the most probable tokens whose probabilities add up to P.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// Earlier reports to show in the same plots and tables.
    #[arg(long, num_args = 1.., value_name = "NAME=DIR")]
    pub compare: Vec<String>,
}

/// `lambda-dpo report`
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folders that `train` or `evaluate` wrote. Of a run, its evaluation (RUN/evaluation) and its benchmarks
    /// (RUN/benchmarks.json) are read too. Runs that differ only by seed are one row, with mean and standard deviation; so
    /// are runs of one NAME, which may also start from different models.
    #[arg(required = true, num_args = 1.., value_name = "[NAME=]RUN")]
    pub runs: Vec<String>,
    /// Folder to write report.json and report.html to; without it, only the tables are printed.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// `lambda-dpo schedule`
#[derive(Debug, Args)]
pub struct ScheduleArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ScheduleCommand,
}

/// The commands of `lambda-dpo schedule`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// Fit a surrogate to scores at a few λ, and write a table of λ whose probabilities follow it.
    Fit(ScheduleFitArgs),
}

/// `lambda-dpo schedule fit`
#[derive(Debug, Args)]
pub struct ScheduleFitArgs {
    /// Anchors, models with a known score: JSON lines {"lambda": {name: weight, …}, "score": number}. Dimensions not
    /// named weigh 0.
    #[arg(long, value_name = "FILE", required_unless_present = "steer", conflicts_with = "steer")]
    pub scores: Option<PathBuf>,
    /// Folder written by `steer --out`, whose λ are the anchors.
    #[arg(long, value_name = "DIR", requires = "metric")]
    pub steer: Option<PathBuf>,
    /// Metric of the report that is the score, such as expected_rating/honesty; expected_rating, score or another name
    /// that comes before those of the dimensions is the mean over all of them.
    #[arg(long, value_name = "NAME", conflicts_with = "scores")]
    pub metric: Option<String>,
    /// Scores are better the lower they are.
    #[arg(long)]
    pub minimize: bool,
    /// Dimensions that --scores may name, in this order [default: all that occur, sorted].
    #[arg(long, value_delimiter = ',', value_name = "A,B", conflicts_with = "steer")]
    pub dimensions: Option<Vec<String>>,
    /// TOML file to write, section lambda of a run config; a report is written beside it, with the ending .json.
    #[arg(long, value_name = "FILE.toml")]
    pub out: PathBuf,
    /// Terms of the surrogate: diagonal (λ_k and λ_k²) or full (also λ_j λ_k).
    #[arg(long, default_value = "diagonal", value_name = "diagonal|full")]
    pub surrogate: Form,
    /// Weight of the sum of the squared coefficients in the fit, beside the sum of the squared residuals.
    #[arg(long, default_value_t = 1e-3, value_name = "R")]
    pub ridge: f64,
    /// Temperature of the softmax over predicted scores; lower values prefer the best λ more.
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Rows of the table, drawn uniformly from all λ.
    #[arg(long, default_value_t = 10, value_name = "K")]
    pub num_candidates: usize,
    /// Seed of the drawn rows.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// Rows of the table instead of drawn ones: JSON lines {"lambda": {name: weight, …}}.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["num_candidates", "seed"])]
    pub candidates: Option<PathBuf>,
}

/// `lambda-dpo evaluate`
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Model that the policy is compared with, or none [default: the model without its adapter].
    #[arg(long, value_name = "DIR|none")]
    pub reference: Option<PathBuf>,
    /// Held-out records with ratings or rankings: files (JSON, JSON lines or Parquet), or Hugging Face datasets (owner/name:split).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Format of the records: ultrafeedback or rankings.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// Folder to write evaluation.json, answers.jsonl and index.html to.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Reward model that scores answers: a folder with the checkpoint of a …ForSequenceClassification, or its name on the
    /// Hugging Face hub.
    #[arg(long, value_name = "DIR", conflicts_with = "rater")]
    pub reward_model: Option<PathBuf>,
    /// Command that scores answers: it reads lines {"prompt", "response"} and writes a line {"name": score, …} for each.
    #[arg(long, value_name = "CMD")]
    pub rater: Option<String>,
    /// File of prompts to answer instead of the records' own: JSON lines or a JSON array of objects with `prompt`, `messages`,
    /// `instruction` or `turns`.
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Answers to compare with instead of the reference's: a folder written by this command, or a file written by
    /// generate --prompts.
    #[arg(long, value_name = "DIR|FILE")]
    pub against: Option<PathBuf>,
    /// Prompts to answer, at most: the first ones; 0 generates nothing.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub num_prompts: usize,
    /// Answers to each prompt, each with different random numbers.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub num_samples: usize,
    /// Answers to generate at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub batch_size: usize,
    /// Tokens of an answer, at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most probable token. Only at 1 do the answers tell the divergence (k1, k3).
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 42, value_name = "S")]
    pub seed: u64,
    /// β of loss, accuracy and margins, which are listwise for every policy.
    #[arg(long, default_value_t = 0.1)]
    pub beta: f64,
    /// Reduction of token log-probs in them: sum or mean.
    #[arg(long, default_value = "sum")]
    pub reduction: Reduction,
    /// Folder of the training run, for its time and memory.
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
}

/// `lambda-dpo serve`
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Address to listen on: a name or an IP address; 0.0.0.0 is all IPv4 addresses of this machine.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000, value_name = "PORT")]
    pub port: u16,
    /// Name of the model in requests [default: that of its folder, or on the hub].
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Key that requests to /v1 must carry [default: LAMBDA_DPO_API_KEY, which other users of the machine cannot see in the
    /// list of processes; else none].
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Texts to generate at once, at most.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub max_batch_size: usize,
    /// Texts that may wait beside them; more are refused with status 429.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_queue: usize,
    /// Tokens of a prompt and its answer together, at most [default: the model's max_position_embeddings].
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<usize>,
    /// Time that a client may take to send a request, and to read what was sent to it, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECS")]
    pub client_timeout: u64,
}

/// `lambda-dpo export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The policy; an adapter is merged into the weights, a λ-adapter at its λ.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Dtype of the exported weights [default: the model's own for hf and torchscript, float32 for onnx]; peft and
    /// loras are always float32.
    #[arg(long)]
    pub dtype: Option<ExportDType>,
    /// Format to write.
    #[arg(long, value_name = "FORMAT")]
    pub to: ExportFormat,
    /// Folder to write, which must not exist.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
}

/// Formats that a policy can be exported to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Hugging Face's format: safetensors, sharded above 5 GB.
    Hf,
    /// Only the adapter, as a LoRA in PEFT's format; a λ-adapter at one λ.
    Peft,
    /// Only the λ-adapter, for every λ: a LoRA in PEFT's format that all λ share, one for each dimension, to be scaled by
    /// its weight in λ, and lambda.json.
    Loras,
    /// Graph for ONNX Runtime: model.onnx, with weights above 1.5 GB in a separate file.
    Onnx,
    /// Module for libtorch: model.pt.
    #[value(name = "torchscript")]
    TorchScript,
}

/// Dtypes of exported weights.
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
    /// ONNX policy: a file, or a folder with model.onnx.
    #[arg(long, value_name = "FILE")]
    pub onnx: PathBuf,
    /// Record files (JSON, JSON lines or Parquet; or a pattern of them), or Hugging Face datasets (owner/name:split).
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub records: Vec<PathBuf>,
    /// Format of the records: ultrafeedback, pairs, chat or rankings.
    #[arg(long, default_value = "ultrafeedback")]
    pub format: Format,
    /// Largest difference of a token's log-prob that passes [default: 1e-4 for float32, 2e-2 for float16, 2e-1 for
    /// bfloat16].
    #[arg(long, value_name = "T")]
    pub tolerance: Option<f64>,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
    /// Library of ONNX Runtime [default: ORT_DYLIB_PATH, else beside libtorch, else in VIRTUAL_ENV, else the system's].
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// `lambda-dpo schema`
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Schema to print.
    pub name: SchemaName,
}

/// The JSON Schemas.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SchemaName {
    /// A record in the input files.
    Record,
    /// A sample as written by `convert`.
    Sample,
    /// A run config as read by `train`.
    Config,
    /// What `evaluate` writes to evaluation.json.
    Evaluation,
    /// What `report` writes.
    Report,
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
