//! Hash of a model: what its outputs depend on.

use std::path::Path;

use tch::{Device, Tensor};

use crate::files::regular;
use crate::files::tensor_bytes::for_each_block;

use super::ModelError;
use super::causal_lm::Model;

/// Goes up when a forward pass computes something else, in more than its last bits.
pub const KEY_VERSION: u32 = 1;

impl Model {
    /// Hashes the model as it is in memory, including an adapter: weights, dtype, kind of device and `config.json`.
    ///
    /// `folder` contains its `config.json`. Hashing what is in memory instead of the files it came from also covers randomly initialised weights.
    ///
    /// # Errors
    ///
    /// Returns an error if `config.json` cannot be read. Errors from libtorch.
    pub fn key(&self, folder: &Path) -> Result<blake3::Hash, ModelError> {
        let path = folder.join("config.json");
        let config = regular::read(&path).map_err(ModelError::read(&path))?;
        let device = if self.device() == Device::Cpu { "cpu" } else { "cuda" };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&KEY_VERSION.to_le_bytes());
        for part in [env!("CARGO_PKG_VERSION").as_bytes(), device.as_bytes(), &config] {
            hasher.update(blake3::hash(part).as_bytes());
        }
        let quantized = self.quantized_parts()?;
        let quantized = quantized.iter().map(|(name, part)| (name, part));
        for (name, tensor) in self.named_parameters().chain(quantized) {
            let about = format!("{name} {:?} {:?}", tensor.kind(), tensor.size());
            hasher.update(blake3::hash(about.as_bytes()).as_bytes());
            hash_values(&mut hasher, tensor)?;
        }
        Ok(hasher.finalize())
    }
}

fn hash_values(hasher: &mut blake3::Hasher, tensor: &Tensor) -> Result<(), ModelError> {
    let hashed = for_each_block(tensor, |bytes| {
        hasher.update_rayon(bytes);
        Ok(())
    });
    hashed.map_err(|error| ModelError::Request(format!("a weight cannot be hashed: {error}")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use tch::Kind;

    use super::*;
    use crate::libtorch::Libtorch;

    fn hash(tensor: &Tensor) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hash_values(&mut hasher, tensor).unwrap();
        hasher.finalize()
    }

    #[test]
    fn values_are_hashed_whatever_their_strides() {
        let matrix = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        assert_eq!(hash(&matrix), hash(&matrix.tr().contiguous().tr()));
        assert_ne!(hash(&matrix), hash(&matrix.tr()));
    }

    #[test]
    fn one_value_of_a_model_changes_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
            "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 11,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 64}"#;
        let write = |config: &str| std::fs::write(folder.path().join("config.json"), config).unwrap();
        write(config);
        let model = |kind, seed| Model::random(folder.path(), Libtorch::cpu(), kind, seed).unwrap();
        let key = |model: &Model| model.key(folder.path()).unwrap();
        let first = model(Kind::Float, 1);
        assert_eq!(key(&first), key(&model(Kind::Float, 1)));
        assert_ne!(key(&first), key(&model(Kind::Float, 2)));
        assert_ne!(key(&first), key(&model(Kind::BFloat16, 1)));
        let before = key(&first);
        for (name, parameter) in first.named_parameters() {
            tch::no_grad(|| {
                let mut last = parameter.view([-1]).narrow(0, parameter.numel() as i64 - 1, 1);
                let kept = last.copy();
                let _ = last.g_add_scalar_(1e-3);
                assert_ne!(key(&first), before, "{name}");
                last.copy_(&kept);
            });
            assert_eq!(key(&first), before, "{name}");
        }
        write(&config.replace("1e-5", "1e-6"));
        assert_ne!(key(&first), before);
    }
}
