//! Hash of the reference policy: what reference log-probs depend on besides a sample's tokens.

use std::path::Path;

use crate::model::KEY_VERSION;
use crate::policy::LogitsPolicy;
use crate::train::TrainError;
use crate::train::trained_policy::TrainableModel;

/// Hashes the model to train; `folder` contains its `config.json`.
pub(super) fn key_of(model: &TrainableModel, folder: &Path) -> Result<blake3::Hash, TrainError> {
    match model {
        TrainableModel::Native(model) => Ok(model.key(folder)?),
        TrainableModel::TorchScript(module) => policy_key(module),
    }
}

/// Hashes an ONNX or TorchScript policy.
///
/// # Errors
///
/// Returns an error if its file cannot be read.
pub fn policy_key(policy: &impl LogitsPolicy) -> Result<blake3::Hash, TrainError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&KEY_VERSION.to_le_bytes());
    hasher.update(blake3::hash(env!("CARGO_PKG_VERSION").as_bytes()).as_bytes());
    hasher.update(policy.content_hash()?.as_bytes());
    Ok(hasher.finalize())
}
