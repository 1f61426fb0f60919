//! Where and what to serve, and the limits.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Semaphore;

/// How a model is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Name of the model in requests, without `@`.
    pub name: String,
    /// Key that requests to `/v1` must carry; None asks for none.
    pub api_key: Option<String>,
    /// Texts that are generated at once.
    pub max_batch_size: usize,
    /// Texts that may wait beside them.
    pub max_queue: usize,
    /// Tokens of prompt and answer together; None takes the model's own number.
    pub max_model_len: Option<usize>,
    /// How long a client may take to send a request, and to read what was sent to it.
    pub client_timeout: Duration,
}

impl ServeOptions {
    /// Checks the options that depend on nothing else.
    ///
    /// # Errors
    ///
    /// Returns an error that names the flag of the option that is out of range.
    pub fn check(&self) -> Result<()> {
        ensure!(self.max_batch_size >= 1, "--max-batch-size must be at least 1, not 0");
        let most = u32::MAX as usize >> 1;
        ensure!(
            self.max_batch_size <= most && self.max_queue <= most.min(Semaphore::MAX_PERMITS >> 1),
            "--max-batch-size and --max-queue must be at most {most}"
        );
        ensure!(!self.client_timeout.is_zero(), "--client-timeout must be at least 1 second, not 0");
        ensure!(
            self.api_key.as_ref().is_none_or(|key| !key.trim().is_empty()),
            "the API key must not be empty: leave --api-key and LAMBDA_DPO_API_KEY out to ask for none"
        );
        ensure!(
            !self.name.trim().is_empty() && !self.name.contains('@'),
            "the model's name must not be empty or contain @, which separates it from λ, but is `{}`: pass another with --name",
            self.name
        );
        Ok(())
    }

    /// Returns the number of texts that may be in the server.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.max_batch_size + self.max_queue
    }

    /// Returns the number of tokens that prompt and answer may have together, of a model that was made for `model_len`.
    ///
    /// # Errors
    ///
    /// Returns an error if `--max-model-len` is less than 2 or more than the model can take.
    pub fn context(&self, model_len: i64) -> Result<usize> {
        let model_len = usize::try_from(model_len).unwrap_or(0);
        let context = self.max_model_len.unwrap_or(model_len);
        ensure!(
            context >= 2 && context <= model_len,
            "--max-model-len must be from 2 to {model_len}, which config.json has as max_position_embeddings, not {context}"
        );
        Ok(context)
    }
}

/// Returns the name that a model has if none is given: the folder's, or the model's on the hub without its revision.
#[must_use]
pub fn default_name(model: &Path) -> String {
    if let Ok(folder) = model.canonicalize() {
        return folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    }
    let name = model.to_string_lossy();
    name.split_once('@').map_or(&*name, |(name, _)| name).to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn options() -> ServeOptions {
        ServeOptions {
            name: "demo".into(),
            api_key: None,
            max_batch_size: 4,
            max_queue: 0,
            max_model_len: None,
            client_timeout: Duration::from_secs(30),
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_their_flag() {
        assert!(options().check().is_ok());
        let message = |change: &dyn Fn(&mut ServeOptions)| {
            let mut options = options();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(message(&|options| options.max_batch_size = 0).starts_with("--max-batch-size must be at least 1"));
        assert!(message(&|options| options.max_queue = usize::MAX).contains("must be at most"));
        assert!(message(&|options| options.client_timeout = Duration::ZERO).starts_with("--client-timeout"));
        assert!(message(&|options| options.api_key = Some(" ".into())).starts_with("the API key must not be empty"));
        assert!(message(&|options| options.name = "a@b".into()).contains("pass another with --name"));
    }

    #[test]
    fn the_context_is_at_most_the_models() {
        assert_eq!(options().context(512).unwrap(), 512);
        assert_eq!(ServeOptions { max_model_len: Some(100), ..options() }.context(512).unwrap(), 100);
        for wrong in [0, 1, 513] {
            let refused = ServeOptions { max_model_len: Some(wrong), ..options() }.context(512).unwrap_err();
            assert!(refused.to_string().starts_with("--max-model-len must be from 2 to 512"), "{refused}");
        }
    }

    #[test]
    fn a_model_is_called_as_its_folder_or_on_the_hub() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tiny")).unwrap();
        assert_eq!(default_name(&folder.path().join("tiny/../tiny/")), "tiny");
        assert_eq!(default_name(Path::new("owner/no-such-model@main")), "owner/no-such-model");
    }
}
