//! What a plugin call can fail with.

use std::path::PathBuf;

use lambda_dpo_abi as abi;

/// A plugin that cannot be loaded, or a call that it refused.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// No library at any of the places where it is looked for.
    #[error(
        "the plugin liblambda_dpo.so is at none of {}; give its place with --plugin FILE or LAMBDA_DPO_PLUGIN",
        places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NotFound {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// The library does not load or lacks its entry point.
    #[error("{}: the plugin does not load: {source}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// Why.
        source: libloading::Error,
    },
    /// The library and this program are built for different torch versions.
    #[error(
        "{}: this plugin is built for torch {plugin}, this program for torch {host}; use a plugin built for torch {host}",
        path.display()
    )]
    TorchVersion {
        /// The library.
        path: PathBuf,
        /// Its torch.
        plugin: String,
        /// Ours.
        host: &'static str,
    },
    /// The call failed; the message is the plugin's own sentence.
    #[error("{message}")]
    Call {
        /// One of the ABI's `STATUS_*`.
        status: abi::Status,
        /// The sentence.
        message: String,
    },
    /// The plugin broke its contract.
    #[error("the plugin answered `{call}` with something unreadable: {problem}")]
    Answer {
        /// The function.
        call: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl PluginError {
    /// True where the progress callback had asked to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Call { status: abi::STATUS_CANCELLED, .. })
    }
}
