//! The tiny Llama of `fuzz/model`, and folders that hold files of it.

use std::path::{Path, PathBuf};

use lambda_dpo_host::libtorch::Libtorch;
use lambda_dpo_host::model::{LambdaParts, LoraConfig, Model, TargetModules};
use tch::Kind;
use tempfile::TempDir;

/// The folder of its `config.json`.
#[must_use]
pub fn source() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/model"))
}

/// The model with random weights.
///
/// # Panics
/// If it cannot be made: the target is of no use then.
#[must_use]
#[expect(clippy::expect_used, reason = "a target cannot start without it")]
pub fn model() -> Model {
    Model::random(&source(), Libtorch::cpu(), Kind::Float, 1).expect("the model of fuzz/model")
}

/// A λ-adapter over two dimensions.
#[must_use]
pub fn lambda_lora() -> LoraConfig {
    LoraConfig {
        rank: 1,
        alpha: 2.0,
        dropout: 0.0,
        use_rslora: false,
        target_modules: TargetModules::AllLinear,
        lambda: Some(LambdaParts { dimensions: ["honesty", "helpfulness"].map(str::to_owned).to_vec(), rank: 1 }),
    }
}

/// A folder with files of the model, which a target replaces one by one.
pub struct Folder(TempDir);

impl Folder {
    /// Makes the folder, with `config.json` and, in `whole/` and `adapter/`, the model's weights and a λ-adapter.
    ///
    /// # Panics
    /// If a file cannot be written.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a target cannot start without it")]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::copy(source().join("config.json"), folder.path().join("config.json")).expect("a temporary file");
        let mut model = model();
        model.save(&folder.path().join("whole"), &source()).expect("the model of fuzz/model");
        model.add_lora(&lambda_lora(), 1).expect("an adapter");
        model.save_adapter(&folder.path().join("adapter"), "tiny").expect("an adapter");
        Self(folder)
    }

    /// A path in the folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in the folder.
    ///
    /// # Panics
    /// If it cannot be written.
    #[expect(clippy::expect_used, reason = "a target cannot go on without it")]
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), content).expect("a temporary file");
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
