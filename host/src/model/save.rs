//! Writes models and adapters as folders that `transformers` and `peft` load.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};
use tch::Tensor;

use super::ModelError;
use super::adapter::peft_file;
use super::causal_lm::Model;
use super::config::dtype_name;
use crate::files::{atomic, regular, safetensors};

/// Larger models are written in several files of at most this size, the default of `save_pretrained` in Transformers 4.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

const GENERATION_FILE: &str = "generation_config.json";

/// Files of a model folder that are copied unchanged, if they exist.
const CARRIED_FILES: [&str; 10] = [
    GENERATION_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
];

/// Folder of the named templates in a model folder.
const TEMPLATES: &str = "additional_chat_templates";

impl Model {
    /// Writes the model as a folder in Hugging Face's format; tokenizer and generation files come from `source_folder`.
    ///
    /// The folder is written atomically and replaces an existing one. A tied LM head is not written.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the model has an adapter that is not merged or weights in 4 bits, or writing fails; an
    /// existing `folder` is then unchanged.
    pub fn save(&self, folder: &Path, source_folder: &Path) -> Result<(), ModelError> {
        if self.has_adapter() {
            return Err(ModelError::Request(
                "a model with an adapter cannot be saved as a whole; merge the adapter first, or save only the adapter"
                    .into(),
            ));
        }
        self.check_not_quantized()?;
        let parts = atomic::Folder::create(folder)?;
        self.write_companions(parts.path(), source_folder)?;
        self.write_weights(parts.path(), MAX_SHARD_BYTES)?;
        Ok(parts.commit()?)
    }

    /// Writes all files of a model folder except the weights into `folder`: `config.json` with the dtype that the
    /// weights have now, and the tokenizer, chat template and generation files of `source_folder`.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if a file of the source cannot be read, or writing fails.
    pub fn write_companions(&self, folder: &Path, source_folder: &Path) -> Result<(), ModelError> {
        write_json(&folder.join("config.json"), &self.config_json())?;
        carry_files(source_folder, folder)?;
        let generation = folder.join(GENERATION_FILE);
        if generation.exists() { Ok(()) } else { write_json(&generation, &self.generation_json()) }
    }

    /// Writes the adapter as a folder in PEFT's format, atomically.
    ///
    /// `base_name` is the base model's folder or hub name, for PEFT.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if there is no adapter, or writing fails.
    pub fn save_adapter(&self, folder: &Path, base_name: &str) -> Result<(), ModelError> {
        let Some(adapter) = &self.adapter else {
            return Err(ModelError::Request("the model has no adapter to save".into()));
        };
        peft_file::write(folder, &adapter.config, &adapter.parameters, base_name)
    }

    /// Returns the source's `config.json` with the class and the dtype of the weights, in the spelling of the source.
    fn config_json(&self) -> Map<String, Value> {
        let mut json = self.config().source.clone();
        // Weights are not written in 4 bits.
        json.shift_remove("quantization_config");
        if json.contains_key("architectures") {
            json.insert("architectures".into(), json!([self.config().architecture.class_name]));
        }
        if let Some(name) = dtype_name(self.kind()) {
            let has_new_spelling = json.contains_key("dtype");
            if has_new_spelling {
                json.insert("dtype".into(), name.into());
            }
            if !has_new_spelling || json.contains_key("torch_dtype") {
                json.insert("torch_dtype".into(), name.into());
            }
        }
        json
    }

    /// Returns the generation config that Transformers derives from `config.json` if a folder has no such file.
    fn generation_json(&self) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("_from_model_config".into(), true.into());
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            if let Some(id) = self.config().source.get(key).filter(|id| !id.is_null()) {
                json.insert(key.into(), id.clone());
            }
        }
        json
    }

    /// Writes `model.safetensors`, or numbered files and their index.
    fn write_weights(&self, folder: &Path, max_shard_bytes: usize) -> Result<(), ModelError> {
        let mut shards: Vec<Vec<(&str, &Tensor)>> = vec![Vec::new()];
        let (mut shard_bytes, mut total_bytes) = (0, 0);
        for (name, tensor) in &self.parameters.dense {
            let num_bytes = safetensors::num_bytes(tensor);
            if shard_bytes > 0 && shard_bytes + num_bytes > max_shard_bytes {
                shards.push(Vec::new());
                shard_bytes = 0;
            }
            shard_bytes += num_bytes;
            total_bytes += num_bytes;
            if let Some(shard) = shards.last_mut() {
                shard.push((name, tensor));
            }
        }
        let num_shards = shards.len();
        if num_shards == 1 {
            let tensors = shards.into_iter().flatten();
            return Ok(safetensors::write(&folder.join("model.safetensors"), tensors, &[("format", "pt")])?);
        }
        let mut weight_map = Map::new();
        for (number, shard) in (1..).zip(shards) {
            let file = format!("model-{number:05}-of-{num_shards:05}.safetensors");
            weight_map.extend(shard.iter().map(|(name, _)| ((*name).to_owned(), Value::from(file.as_str()))));
            safetensors::write(&folder.join(file), shard, &[("format", "pt")])?;
        }
        let mut index = Map::new();
        index.insert("metadata".into(), json!({ "total_size": total_bytes }));
        index.insert("weight_map".into(), weight_map.into());
        write_json(&folder.join("model.safetensors.index.json"), &index)
    }
}

/// Copies those tokenizer, chat template and generation files that the source has.
///
/// # Errors
///
/// Returns a [`ModelError`] if one of them cannot be read, or writing fails.
pub fn carry_files(source_folder: &Path, folder: &Path) -> Result<(), ModelError> {
    for name in CARRIED_FILES {
        let source = source_folder.join(name);
        if regular::is_there(&source) {
            carry(&source, &folder.join(name))?;
        }
    }
    // Templates with a name, such as the one for conversations with tools.
    let Ok(templates) = fs::read_dir(source_folder.join(TEMPLATES)) else { return Ok(()) };
    for template in templates.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let target = folder.join(TEMPLATES);
        let problem =
            |error: std::io::Error| ModelError::Request(format!("{} cannot be made: {error}", target.display()));
        fs::create_dir_all(&target).map_err(problem)?;
        carry(&template, &target.join(template.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn carry(source: &Path, target: &Path) -> Result<(), ModelError> {
    let bytes = regular::read(source).map_err(ModelError::read(source))?;
    Ok(atomic::write(target, &bytes)?)
}

/// Writes a chat template, which overrides the tokenizer's own, into a model's or adapter's folder.
///
/// # Errors
///
/// Returns a [`ModelError`] if the template cannot be read, or writing fails.
pub fn write_chat_template(template: &Path, folder: &Path) -> Result<(), ModelError> {
    let text = fs::read(template).map_err(ModelError::read(template))?;
    Ok(atomic::write(&folder.join("chat_template.jinja"), &text)?)
}

fn write_json(path: &Path, json: &Map<String, Value>) -> Result<(), ModelError> {
    let mut text = serde_json::to_string_pretty(json)
        .map_err(|error| ModelError::Json { path: path.to_path_buf(), message: error.to_string() })?;
    text.push('\n');
    Ok(atomic::write(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests;
