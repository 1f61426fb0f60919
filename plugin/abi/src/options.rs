//! Option structs. Each starts with `struct_size` and ends without padding: a later field in the place of padding would
//! be read from uninitialised bytes of older callers.

use core::ffi::c_void;

use crate::{Progress, Str};

/// UltraFeedback's schema: `instruction` and rated `completions`.
pub const FORMAT_ULTRAFEEDBACK: u32 = 0;
/// `prompt`, `chosen`, `rejected`.
pub const FORMAT_PAIRS: u32 = 1;
/// `messages`, or ShareGPT's `conversations`.
pub const FORMAT_CHAT: u32 = 2;
/// `prompt`, `responses`, and `rankings` of them by dimension: with P places, a rank is the rating P + 1 − rank.
pub const FORMAT_RANKINGS: u32 = 3;

/// How records are read and converted.
#[repr(C)]
#[derive(Debug)]
pub struct ConvertOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// One of the `FORMAT_*`.
    pub format: u32,
    /// 1: reduce each rated or ranked record to a pair of its best and worst responses by mean rating; records in which
    /// they tie are skipped and counted.
    pub best_worst_pairs: u32,
    /// Names of the dimensions, in order; NULL means all names that the inputs use, sorted.
    pub dimensions: *const Str,
    /// Length of `dimensions`.
    pub num_dimensions: usize,
    /// Rating that replaces a missing one; NaN masks the response in that dimension instead.
    pub missing_rating: f64,
    /// Temperature of the softmax over ratings, above 0.
    pub temperature: f64,
    /// Maximum number of records to read; 0 for all.
    pub max_samples: u64,
    /// Records with one of these as `source` are left out and counted.
    pub exclude_sources: *const Str,
    /// Length of `exclude_sources`.
    pub num_exclude_sources: usize,
    /// 1: keep every record that parses, whatever its ratings and its number of responses (scoring needs no ratings).
    pub keep_all: u32,
    /// Must be 0; reserved for a later version.
    pub reserved: u32,
}

/// How samples are tokenised.
#[repr(C)]
#[derive(Debug)]
pub struct TokenizeOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Maximum length of prompt + longest response in tokens; 0 for no limit.
    pub cutoff_len: u64,
    /// 1: keep samples with fewer than two responses, and responses without a token (for scoring).
    pub keep_all: u32,
    /// Must be 0; reserved for a later version.
    pub reserved: u32,
}

/// M·N padded rows per prompt.
pub const LAYOUT_EXPANDED: u32 = 0;
/// N padded rows per prompt.
pub const LAYOUT_ROWS: u32 = 1;
/// Rows of one or several prompts, each followed by its responses.
pub const LAYOUT_PACKED: u32 = 2;

/// How samples are collated to a batch.
#[repr(C)]
#[derive(Debug)]
pub struct CollateOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// One of the `LAYOUT_*`.
    pub layout: u32,
    /// Packed layout: prompts share a row of at most this many tokens; 0 for one prompt per row.
    pub max_tokens: u64,
    /// Rows are padded to a multiple of this; 0 for 8.
    pub pad_to_multiple_of: u64,
    /// Token id at padding.
    pub pad_token_id: i64,
}

/// How a dataset is opened: stages 1 to 3, with the options of the calls for single records.
#[repr(C)]
#[derive(Debug)]
pub struct DatasetOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// Borrowed for the call.
    pub convert: *const ConvertOptions,
    /// Borrowed for the call.
    pub tokenize: *const TokenizeOptions,
    /// Receives the number of records done from time to time (0 while files are hashed for the cache); may be NULL.
    pub progress: Progress,
    /// Passed to `progress` as `user`.
    pub progress_user: *mut c_void,
    /// Folder in which tokenised records are kept for later openings, in files named by a hash of the records'
    /// contents, the tokenizer and all options; created if missing. One file may serve any number of processes. Empty:
    /// the tokens are in an unnamed temporary file that is gone with the dataset.
    pub cache_dir: Str,
}

/// Maximum number of prefetched batches of a dataset.
pub const PREFETCH_CAPACITY: usize = 64;

/// λ = u / Σ u with u uniform on (0, 1)^M.
pub const SCHEDULE_UNIFORM_NORMALIZED: u32 = 0;
/// λ ~ Dir(α·1).
pub const SCHEDULE_DIRICHLET: u32 = 1;
/// λ = softmax(z), z ~ N(0, I).
pub const SCHEDULE_GAUSSIAN: u32 = 2;
/// λ = |z| / Σ |z|, z ~ N(0, I).
pub const SCHEDULE_GAUSSIAN_ABS: u32 = 3;
/// One-hot at a fixed dimension.
pub const SCHEDULE_UNIMODAL: u32 = 4;
/// One-hot, cycling through the dimensions with the record index and epoch (or the step).
pub const SCHEDULE_UNIMODAL_CYCLE: u32 = 5;
/// A constant λ.
pub const SCHEDULE_FIXED: u32 = 6;
/// A row of a table of λ, drawn by probability.
pub const SCHEDULE_TABLE: u32 = 7;

/// A λ schedule. Equations: docs/method.md, "λ schedules".
#[repr(C)]
#[derive(Debug)]
pub struct ScheduleOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// One of the `SCHEDULE_*`.
    pub kind: u32,
    /// Index of the dimension (unimodal).
    pub dimension: u32,
    /// M.
    pub num_dimensions: usize,
    /// α of the Dirichlet distribution, above 0.
    pub alpha: f64,
    /// `[M]` (fixed) or `[rows, M]` (table), row-major; each row must sum to 1 within 1e-3 and is renormalised.
    pub weights: *const f64,
    /// Rows of `weights` (table); 1 for fixed.
    pub num_rows: usize,
    /// `[rows]` sampling weights of the table's rows: not negative, and not all 0.
    pub probabilities: *const f64,
}

/// λ-DPO: the listwise cross-entropy against the λ-mixed targets (15). Equations: docs/method.md, "Objectives".
pub const OBJECTIVE_LISTWISE: u32 = 0;
/// Mean negative log-likelihood of the target tokens.
pub const OBJECTIVE_SFT: u32 = 1;
/// The likelihood of each dimension's order, in which ties share a place.
pub const OBJECTIVE_PLACKETT_LUCE: u32 = 2;
/// DPO: −log σ(Δr). This and those below are means over the pairs that a dimension orders, mixed by λ'.
pub const OBJECTIVE_SIGMOID: u32 = 3;
/// max(0, 1 − Δr).
pub const OBJECTIVE_HINGE: u32 = 4;
/// IPO: (Δ(s − s^ref) − 1/(2β))².
pub const OBJECTIVE_IPO: u32 = 5;
/// SimPO: −log σ(β Δs − γ); s is a mean, and there is no reference.
pub const OBJECTIVE_SIMPO: u32 = 6;
/// ORPO: −s_w − β log σ(Δ log-odds); s is a mean, and there is no reference.
pub const OBJECTIVE_ORPO: u32 = 7;

/// s is the sum of a response's token log-probs.
pub const REDUCTION_SUM: u32 = 0;
/// s is their mean.
pub const REDUCTION_MEAN: u32 = 1;

/// The gradient of `hidden` is wanted.
pub const WANTS_HIDDEN: u32 = 1;
/// The gradient of `lm_head` is wanted.
pub const WANTS_LM_HEAD: u32 = 2;
/// The gradient of `logits` is wanted.
pub const WANTS_LOGITS: u32 = 4;
/// The gradient of `sequence_log_probs` is wanted.
pub const WANTS_SEQUENCE_LOG_PROBS: u32 = 8;

/// How log-probs and loss are computed.
#[repr(C)]
#[derive(Debug)]
pub struct LossOptions {
    /// `sizeof` of this struct as the caller knows it.
    pub struct_size: usize,
    /// One of the `OBJECTIVE_*`.
    pub objective: u32,
    /// One of the `REDUCTION_*`.
    pub reduction: u32,
    /// β (17), above 0; that of ORPO's odds ratio. SFT has none.
    pub beta: f64,
    /// `OBJECTIVE_SIGMOID`: probability that a preference is wrong, at least 0 and below 0.5; 0 for the others.
    pub label_smoothing: f64,
    /// `OBJECTIVE_SIMPO`: the margin γ, at least 0; 0 for the others.
    pub simpo_gamma: f64,
    /// Weight, at least 0, of the mean negative log-likelihood per token of each prompt's best response under λ', which
    /// is added to the loss; ties share it. 0 for SFT.
    pub sft_weight: f64,
    /// Divisor of the loss: number of contributing prompts, or target tokens (SFT), of the whole optimiser step; 0 means
    /// that of this call.
    pub normalizer: f64,
    /// Bytes of logits that may be alive at once; 0 for the default of 256 MiB.
    pub logits_budget_bytes: u64,
    /// 1: add 1e-10 to the target distributions, as Appendix B of the paper does.
    pub paper_exact: u32,
    /// Gradients that the backward will be asked for: a sum of `WANTS_*`; 0 if there will be no backward.
    pub wants: u32,
}
