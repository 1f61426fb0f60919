//! Errors of the plugin.

use std::path::PathBuf;

use lambda_dpo_abi as abi;

/// The plugin cannot be loaded, or a call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no library in any of the places.
    #[error(
        "the plugin liblambda_dpo.so was not found at {}; give its path with --plugin FILE or LAMBDA_DPO_PLUGIN",
        places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or ")
    )]
    NotFound {
        /// The places that were searched.
        places: Vec<PathBuf>,
    },
    /// The library does not load or lacks its entry point.
    #[error("{}: the plugin does not load: {source}", path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The error of the dynamic linker.
        source: libloading::Error,
    },
    /// The library's table lacks functions of this program's revision of the ABI.
    #[error(
        "{}: this plugin's table has {found} bytes, but this program calls functions of a table of {expected}: it is older \
         than the program, use the plugin of the same version",
        path.display()
    )]
    Table {
        /// The library.
        path: PathBuf,
        /// Size of its table, in bytes.
        found: usize,
        /// Size of the table that this program is built for, in bytes.
        expected: usize,
    },
    /// The library and this program are built for different versions of torch.
    #[error(
        "{}: this plugin is built for torch {plugin}, this program for torch {host}; use a plugin built for torch {host}",
        path.display()
    )]
    TorchVersion {
        /// The library.
        path: PathBuf,
        /// The version of torch that the library is built for.
        plugin: String,
        /// The version of torch that this program is built for.
        host: &'static str,
    },
    /// The call failed.
    #[error("{message}")]
    Call {
        /// One of the ABI's `STATUS_*`.
        status: abi::Status,
        /// The plugin's message, one sentence.
        message: String,
    },
    /// The plugin broke the contract of the ABI.
    #[error("the plugin's answer to `{call}` is invalid: {problem}")]
    Answer {
        /// The function.
        call: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
}

impl PluginError {
    /// Rewords the plugin's message.
    #[must_use]
    pub fn reworded(self, reword: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Call { status, message } => Self::Call { status, message: reword(&message) },
            other => other,
        }
    }

    /// Returns true if the progress callback asked the call to stop.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Call { status: abi::STATUS_CANCELLED, .. })
    }
}
