//! The policy and its reference.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::model::Model;
use crate::plugin::{Message, Tokenizer};

/// A reference policy.
pub enum Reference {
    /// The policy without its adapter.
    AdapterOff,
    /// Another model.
    Model(Box<Model>),
    /// None: s^ref is 0, and nothing is compared with it.
    None,
}

/// A policy with its reference.
pub struct Policies {
    policy: Model,
    reference: Reference,
}

impl Policies {
    /// Pairs a policy with its reference.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no adapter to switch off, or if the two have vocabularies of different sizes.
    pub fn new(policy: Model, reference: Reference) -> Result<Self> {
        match &reference {
            Reference::AdapterOff => ensure!(
                policy.has_adapter(),
                "there is no reference: a model without an adapter needs --reference, the model that its training began with, \
                 or --reference none"
            ),
            Reference::Model(model) => ensure!(
                model.config().vocab_size == policy.config().vocab_size,
                "the reference has a vocabulary of {}, the model of {}: they cannot be compared token by token",
                model.config().vocab_size,
                policy.config().vocab_size
            ),
            Reference::None => {}
        }
        Ok(Self { policy, reference })
    }

    /// Returns the policy.
    pub fn policy(&self) -> &Model {
        &self.policy
    }

    /// Returns a hash of both models, whose folders contain their `config.json`.
    ///
    /// # Errors
    ///
    /// Returns an error if a `config.json` cannot be read. Errors from libtorch.
    pub fn key(&self, folder: &Path, reference_folder: Option<&Path>) -> Result<String> {
        let reference = match (&self.reference, reference_folder) {
            (Reference::Model(model), Some(folder)) => model.key(folder)?.to_string(),
            (Reference::AdapterOff, _) => "adapter off".to_owned(),
            _ => "none".to_owned(),
        };
        Ok(format!("{} {reference}", self.policy.key(folder)?))
    }

    /// Returns whether there is a reference.
    pub fn has_reference(&self) -> bool {
        !matches!(self.reference, Reference::None)
    }

    /// Returns what `run` returns for the reference; None if there is none.
    ///
    /// # Errors
    ///
    /// Errors of `run`.
    pub fn with_reference<T>(&mut self, run: impl FnOnce(&Model) -> Result<T>) -> Result<Option<T>> {
        match &self.reference {
            Reference::None => Ok(None),
            Reference::Model(model) => run(model).map(Some),
            Reference::AdapterOff => {
                self.policy.set_adapter_enabled(false);
                let result = run(&self.policy);
                self.policy.set_adapter_enabled(true);
                result.map(Some)
            }
        }
    }
}

/// Checks that two tokenizers encode a conversation alike, so that their models can be compared token by token.
///
/// # Errors
///
/// Returns an error if they do not.
pub fn check_tokenizers(policy: &Tokenizer, reference: &Tokenizer, messages: &[Message]) -> Result<()> {
    let text = policy.render(messages, true)?;
    ensure!(
        policy.encode(&text)? == reference.encode(&text)?,
        "the tokenizer of the reference encodes a prompt differently: the two cannot be compared token by token"
    );
    Ok(())
}
