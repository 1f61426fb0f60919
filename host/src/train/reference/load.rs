//! Finds the reference policy that the config asks for, and computes s^ref of the run's samples under it.

use crate::config::{Init, ReferenceKind, RunConfig};
use crate::model::Model;
use crate::policy::{LogitsPolicy, OnnxPolicy, Scorer, TorchScriptPolicy};
use crate::train::TrainError;
use crate::train::data::RunBatches;
use crate::train::setup::Setup;
use crate::train::trained_policy::{TrainableModel, precision};

use super::cache::ReferenceCache;
use super::compute::Reference;
use super::key::{key_of, policy_key};
use super::log_probs::ReferenceLogProbs;
use super::request::requests;
use super::validate::validate;

/// s^ref of the samples of a run.
#[derive(Debug, Default)]
pub struct References {
    /// s^ref of the samples to train on; None if the loss has no reference.
    pub train: Option<ReferenceLogProbs>,
    /// s^ref of the samples to evaluate on; None if there are none, or the loss has no reference.
    pub eval: Option<ReferenceLogProbs>,
}

/// Loads the model to train, and computes s^ref under the reference policy; stops early on a signal.
///
/// The reference policy is the model as loaded, unless `reference.path` names another one. Another Hugging Face model
/// is dropped before the one to train is loaded, so that memory never holds both.
pub(in crate::train) fn load_model_and_references(
    setup: &Setup,
    batches: &RunBatches,
) -> Result<(TrainableModel, References), TrainError> {
    let config = setup.config;
    if !has_reference(config) {
        return Ok((load_model(setup)?, References::default()));
    }
    match (&config.reference.path, config.reference.kind) {
        (None, _) => {
            let model = load_model(setup)?;
            let key = key_of(&model, &setup.model_folder)?;
            let references = compute(setup, batches, model.scorer(), &key)?;
            Ok((model, references))
        }
        (Some(path), ReferenceKind::Onnx) => {
            load_with_exported(setup, batches, &OnnxPolicy::open(path, None, setup.libtorch)?)
        }
        (Some(path), ReferenceKind::TorchScript) => {
            load_with_exported(setup, batches, &TorchScriptPolicy::open(path, setup.libtorch)?)
        }
        (Some(path), _) => {
            let folder = setup.hub.model_folder(path)?;
            let reference = Model::load(&folder, setup.libtorch, precision(&config.model))?;
            let references = compute(setup, batches, &reference, &reference.key(&folder)?)?;
            drop(reference);
            Ok((load_model(setup)?, references))
        }
    }
}

pub(in crate::train) fn has_reference(config: &RunConfig) -> bool {
    config.objective().has_reference() && config.reference.kind != ReferenceKind::None
}

fn load_model(setup: &Setup) -> Result<TrainableModel, TrainError> {
    TrainableModel::load(setup.config, &setup.model_folder, setup.libtorch)
}

/// Loads the model, and computes s^ref under a policy that was exported from its weights.
fn load_with_exported(
    setup: &Setup,
    batches: &RunBatches,
    reference: &impl LogitsPolicy,
) -> Result<(TrainableModel, References), TrainError> {
    let model = load_model(setup)?;
    let has_original_weights = setup.config.model.init == Init::Pretrained && setup.checkpoint.is_none();
    if setup.config.reference.validate && has_original_weights {
        validate(setup, batches.train.dataset, &model, reference)?;
    }
    let references = compute(setup, batches, reference, &policy_key(reference)?)?;
    Ok((model, references))
}

fn compute(
    setup: &Setup,
    batches: &RunBatches,
    scorer: &dyn Scorer,
    key: &blake3::Hash,
) -> Result<References, TrainError> {
    let cache = match &setup.cache {
        Some(cache) if setup.config.reference.cache => Some(ReferenceCache::open(&cache.reference(), key)?),
        _ => None,
    };
    let Setup { plugin, loss, interrupt, .. } = setup;
    let reference = Reference { scorer, plugin, loss: *loss, cache, interrupt };
    let mut log_probs = reference.log_probs(&requests(batches))?.into_iter();
    Ok(References { train: log_probs.next(), eval: log_probs.next() })
}
