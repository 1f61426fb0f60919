//! Options of stages 1 to 4 of the data path.

use std::path::PathBuf;

use lambda_dpo_abi as abi;
use lambda_dpo_concepts::{Format, Layout};
use serde::Deserialize;

use super::call::{lend_strs, zeroed};

/// How records are read and converted; see the ABI's `ConvertOptions`.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Schema of the files.
    pub format: Format,
    /// Reduce rated records to their best and worst response.
    pub best_worst_pairs: bool,
    /// Names of the dimensions; None takes all that the inputs use.
    pub dimensions: Option<Vec<String>>,
    /// Rating that replaces a missing one; None masks it.
    pub missing_rating: Option<f64>,
    /// Temperature of the softmax over ratings.
    pub temperature: f64,
    /// Maximum number of records to read.
    pub max_samples: Option<u64>,
    /// Sources to leave out.
    pub exclude_sources: Vec<String>,
    /// Keep every record that parses.
    pub keep_all: bool,
}

impl Default for ConvertOptions {
    /// As the ABI's zero, but with temperature 1 and missing ratings masked, because there a zero is a value.
    fn default() -> Self {
        Self {
            format: Format::default(),
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

/// Limits of tokenisation; see the ABI's `TokenizeOptions`.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizeOptions {
    /// Maximum length of prompt + longest response in tokens.
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
    /// Folder in which the tokens are kept for later openings; None keeps them for this one only.
    pub cache_dir: Option<PathBuf>,
}

/// How a dataset used its cache.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CacheUse {
    /// The file.
    pub path: PathBuf,
    /// True if the tokens were read from the file, false if they were written to it.
    pub was_read: bool,
    /// Why an existing file could not be used.
    pub damage: Option<String>,
}

/// How samples are collated to a batch; see the ABI's `CollateOptions`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CollateOptions {
    /// The layout.
    pub layout: Layout,
    /// Packed: prompts share a row of at most this many tokens; None for one prompt per row.
    pub max_tokens: Option<usize>,
    /// Token id at padding.
    pub pad_token_id: i64,
}

impl TokenizeOptions {
    pub(super) fn to_abi(self) -> abi::TokenizeOptions {
        abi::TokenizeOptions {
            cutoff_len: self.cutoff_len.unwrap_or(0) as u64,
            keep_all: u32::from(self.keep_all),
            ..zeroed!(abi::TokenizeOptions)
        }
    }
}

impl CollateOptions {
    pub(super) fn to_abi(self) -> abi::CollateOptions {
        abi::CollateOptions {
            layout: self.layout.code(),
            max_tokens: self.max_tokens.unwrap_or(0) as u64,
            pad_token_id: self.pad_token_id,
            ..zeroed!(abi::CollateOptions)
        }
    }
}

/// `abi::ConvertOptions` with the text that it points to.
pub(super) struct LentConvert {
    pub(super) raw: abi::ConvertOptions,
    _names: [Vec<abi::Str>; 2],
}

impl ConvertOptions {
    pub(super) fn lend(&self) -> LentConvert {
        let dimensions = self.dimensions.as_deref().map(lend_strs);
        let sources = lend_strs(&self.exclude_sources);
        let raw = abi::ConvertOptions {
            format: self.format.code(),
            best_worst_pairs: u32::from(self.best_worst_pairs),
            dimensions: dimensions.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            num_dimensions: dimensions.as_ref().map_or(0, Vec::len),
            missing_rating: self.missing_rating.unwrap_or(f64::NAN),
            temperature: self.temperature,
            max_samples: self.max_samples.unwrap_or(0),
            exclude_sources: sources.as_ptr(),
            num_exclude_sources: sources.len(),
            keep_all: u32::from(self.keep_all),
            ..zeroed!(abi::ConvertOptions)
        };
        LentConvert { raw, _names: [dimensions.unwrap_or_default(), sources] }
    }
}
