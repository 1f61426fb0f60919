//! Options of stages 1 to 4, and what was left out under them.

use std::path::PathBuf;

use lambda_dpo_abi as abi;
use serde::Deserialize;

use super::load::lend_strs;

/// Schema of record files; see the ABI's `FORMAT_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Rated completions.
    #[default]
    UltraFeedback,
    /// Chosen and rejected.
    Pairs,
    /// Conversations.
    Chat,
}

/// How records are read and converted; see the ABI's `ConvertOptions`.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Schema of the files.
    pub format: Format,
    /// Reduce rated records to their best and worst response.
    pub best_worst_pairs: bool,
    /// Names of the dimensions; None takes all that the inputs use.
    pub dimensions: Option<Vec<String>>,
    /// What stands in for a missing rating; None masks it.
    pub missing_rating: Option<f64>,
    /// Temperature of the softmax over ratings.
    pub temperature: f64,
    /// Records to read at most.
    pub max_samples: Option<u64>,
    /// Sources to leave out.
    pub exclude_sources: Vec<String>,
    /// Keep every record that parses.
    pub keep_all: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            format: Format::UltraFeedback,
            best_worst_pairs: false,
            dimensions: None,
            missing_rating: None,
            temperature: 1.0,
            max_samples: None,
            exclude_sources: Vec::new(),
            keep_all: false,
        }
    }
}

/// Bounds of tokenisation; see the ABI's `TokenizeOptions`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizeOptions {
    /// Bound on prompt + longest response in tokens.
    pub cutoff_len: Option<usize>,
    /// Keep samples with fewer than two responses.
    pub keep_all: bool,
}

/// How a dataset is opened; see the ABI's `DatasetOptions`.
#[derive(Clone, Debug, Default)]
pub struct DatasetOptions {
    /// Stages 1 and 2.
    pub convert: ConvertOptions,
    /// Stage 3.
    pub tokenize: TokenizeOptions,
    /// Where the tokens are kept for later openings; None keeps them for this one.
    pub cache_dir: Option<PathBuf>,
}

/// What a dataset had from its cache.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CacheUse {
    /// The file.
    pub path: PathBuf,
    /// The tokens were read from it; else they were written to it.
    pub was_read: bool,
    /// Why a file that stood there could not be used.
    pub damage: Option<String>,
}

/// The layout of a batch; see the ABI's `LAYOUT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// M·N rows per prompt.
    Expanded,
    /// N rows per prompt.
    Rows,
    /// Prompt and responses in one row.
    Packed,
}

/// How samples become a batch; see the ABI's `CollateOptions`.
#[derive(Clone, Copy, Debug)]
pub struct CollateOptions {
    /// The layout.
    pub layout: Layout,
    /// Packed: prompts share a row up to this many tokens.
    pub max_tokens: Option<usize>,
    /// Fills padding.
    pub pad_token_id: i64,
}

impl TokenizeOptions {
    pub(super) fn lend(&self) -> abi::TokenizeOptions {
        abi::TokenizeOptions {
            struct_size: size_of::<abi::TokenizeOptions>(),
            cutoff_len: self.cutoff_len.unwrap_or(0) as u64,
            keep_all: u32::from(self.keep_all),
            reserved: 0,
        }
    }
}

impl CollateOptions {
    pub(super) fn lend(&self) -> abi::CollateOptions {
        abi::CollateOptions {
            struct_size: size_of::<abi::CollateOptions>(),
            layout: match self.layout {
                Layout::Expanded => abi::LAYOUT_EXPANDED,
                Layout::Rows => abi::LAYOUT_ROWS,
                Layout::Packed => abi::LAYOUT_PACKED,
            },
            max_tokens: self.max_tokens.unwrap_or(0) as u64,
            pad_to_multiple_of: 0,
            pad_token_id: self.pad_token_id,
        }
    }
}

/// `abi::ConvertOptions` with what it points to.
pub(super) struct LentConvert {
    pub(super) raw: abi::ConvertOptions,
    _names: [Vec<abi::Str>; 2],
}

impl ConvertOptions {
    pub(super) fn lend(&self) -> LentConvert {
        let dimensions = self.dimensions.as_deref().map(lend_strs);
        let sources = lend_strs(&self.exclude_sources);
        let raw = abi::ConvertOptions {
            struct_size: size_of::<abi::ConvertOptions>(),
            format: match self.format {
                Format::UltraFeedback => abi::FORMAT_ULTRAFEEDBACK,
                Format::Pairs => abi::FORMAT_PAIRS,
                Format::Chat => abi::FORMAT_CHAT,
            },
            best_worst_pairs: u32::from(self.best_worst_pairs),
            dimensions: dimensions.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            num_dimensions: dimensions.as_ref().map_or(0, Vec::len),
            missing_rating: self.missing_rating.unwrap_or(f64::NAN),
            temperature: self.temperature,
            max_samples: self.max_samples.unwrap_or(0),
            exclude_sources: sources.as_ptr(),
            num_exclude_sources: sources.len(),
            keep_all: u32::from(self.keep_all),
            reserved: 0,
        };
        LentConvert { raw, _names: [dimensions.unwrap_or_default(), sources] }
    }
}
