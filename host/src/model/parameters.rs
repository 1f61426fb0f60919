//! The parameters of a model: their names and shapes from the configuration, and their values, loaded or initialised.

use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::config::ModelConfig;
use super::random::Random;
use crate::files::beside::beside;
use crate::files::git_lfs::refuse_pointer;
use crate::files::safetensors::SafetensorsFile;

const EMBEDDING: &str = "model.embed_tokens.weight";
const LM_HEAD: &str = "lm_head.weight";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Parameters by their names in the checkpoint, in the order of Transformers' `named_parameters`.
pub(super) type Parameters = IndexMap<String, Tensor>;

/// Returns names and shapes of all parameters of a model.
pub(super) fn shapes(config: &ModelConfig) -> IndexMap<String, Vec<i64>> {
    let hidden = config.hidden_size;
    let query = config.num_attention_heads * config.head_dim;
    let key_value = config.num_key_value_heads * config.head_dim;
    let mut shapes = IndexMap::new();
    shapes.insert(EMBEDDING.to_owned(), vec![config.vocab_size, hidden]);
    for layer in 0..config.num_hidden_layers {
        let mut linear = |name: &str, num_outputs: i64, num_inputs: i64, has_bias: bool| {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), vec![num_outputs, num_inputs]);
            if has_bias {
                shapes.insert(format!("model.layers.{layer}.{name}.bias"), vec![num_outputs]);
            }
        };
        linear("self_attn.q_proj", query, hidden, config.qkv_bias);
        linear("self_attn.k_proj", key_value, hidden, config.qkv_bias);
        linear("self_attn.v_proj", key_value, hidden, config.qkv_bias);
        linear("self_attn.o_proj", hidden, query, config.o_proj_bias);
        let mut norm = |name: &str, size: i64| {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), vec![size]);
        };
        if config.architecture.qk_norm {
            norm("self_attn.q_norm", config.head_dim);
            norm("self_attn.k_norm", config.head_dim);
        }
        let mut linear = |name: &str, num_outputs: i64, num_inputs: i64| {
            shapes.insert(format!("model.layers.{layer}.mlp.{name}.weight"), vec![num_outputs, num_inputs]);
            if config.mlp_bias {
                shapes.insert(format!("model.layers.{layer}.mlp.{name}.bias"), vec![num_outputs]);
            }
        };
        linear("gate_proj", config.intermediate_size, hidden);
        linear("up_proj", config.intermediate_size, hidden);
        linear("down_proj", hidden, config.intermediate_size);
        let mut norm = |name: &str| {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), vec![hidden]);
        };
        norm("input_layernorm");
        norm("post_attention_layernorm");
    }
    shapes.insert("model.norm.weight".to_owned(), vec![hidden]);
    if !config.tie_word_embeddings {
        shapes.insert(LM_HEAD.to_owned(), vec![config.vocab_size, hidden]);
    }
    shapes
}

/// Initialises parameters as Transformers does: norms 1, biases 0, the padding token's embedding 0, all others normal
/// with standard deviation `initializer_range`.
///
/// The values depend only on `seed` and the configuration, not on the device; the dtype rounds them.
pub(super) fn random(config: &ModelConfig, device: Device, kind: Kind, seed: u64) -> Result<Parameters, ModelError> {
    let mut parameters = Parameters::new();
    for (stream, (name, shape)) in shapes(config).into_iter().enumerate() {
        let tensor = if name.ends_with("norm.weight") {
            Tensor::f_ones(&shape, (Kind::Float, Device::Cpu))?
        } else if name.ends_with(".bias") {
            Tensor::f_zeros(&shape, (Kind::Float, Device::Cpu))?
        } else {
            Random::new(seed, stream as u64).normal(&shape, config.initializer_range)?
        };
        if let (EMBEDDING, Some(pad)) = (name.as_str(), config.pad_token_id.filter(|&pad| pad < config.vocab_size)) {
            let _ = tensor.f_select(0, pad)?.f_zero_()?;
        }
        parameters.insert(name, tensor.f_to_device(device)?.f_to_kind(kind)?);
    }
    Ok(parameters)
}

/// Loads the safetensors weights of a model folder, from one file or from several files with an index.
///
/// All names and shapes are checked before any value is read.
pub(super) fn load(folder: &Path, config: &ModelConfig, device: Device, kind: Kind) -> Result<Parameters, ModelError> {
    let (listing, paths) = weight_files(folder)?;
    let files = paths.iter().map(|path| SafetensorsFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let shapes = shapes(config);
    let mut sources = IndexMap::new();
    for (path, file) in paths.iter().zip(&files) {
        for name in file.names() {
            let found = file.shape(&name).unwrap_or_default();
            match shapes.get(&name) {
                Some(expected) if *expected != found => {
                    return Err(ModelError::TensorShape {
                        file: path.clone(),
                        tensor: name,
                        source_of_shape: "config.json".into(),
                        expected: expected.clone(),
                        found,
                    });
                }
                // Old checkpoints of Llama contain the rotary frequencies, which config.json determines.
                None if name.ends_with(".rotary_emb.inv_freq") => {}
                None if name == LM_HEAD => check_tied(path, file, &files)?,
                None => return Err(ModelError::UnexpectedTensor { file: path.clone(), tensor: name }),
                Some(_) => {
                    sources.insert(name, file);
                }
            }
        }
    }
    let mut parameters = Parameters::with_capacity(shapes.len());
    for (name, shape) in shapes {
        let Some(file) = sources.get(&name) else {
            return Err(ModelError::MissingTensor { file: listing, tensor: name, shape });
        };
        let tensor = file.read(&name)?.f_to_device(device)?.f_to_kind(kind)?;
        parameters.insert(name, tensor);
    }
    Ok(parameters)
}

/// Some programs write the LM head of a tied model too; it is ignored if it equals the embedding.
fn check_tied(path: &Path, file: &SafetensorsFile, files: &[SafetensorsFile]) -> Result<(), ModelError> {
    let embedding = files.iter().find(|file| file.shape(EMBEDDING).is_some()).map(|file| file.read(EMBEDDING));
    let head = file.read(LM_HEAD)?;
    if embedding.transpose()?.is_some_and(|embedding| embedding.size() == head.size() && embedding == head) {
        return Ok(());
    }
    Err(ModelError::Json {
        path: path.with_file_name("config.json"),
        message: format!(
            "`tie_word_embeddings` is true, but `{LM_HEAD}` in {} differs from `{EMBEDDING}`; set it to false",
            path.display()
        ),
    })
}

/// Returns the file that lists the tensors (for error messages), and the files that contain them.
fn weight_files(folder: &Path) -> Result<(PathBuf, Vec<PathBuf>), ModelError> {
    let single = folder.join("model.safetensors");
    if single.exists() {
        return Ok((single.clone(), vec![single]));
    }
    let index = folder.join(INDEX_FILE);
    if !index.exists() {
        return Err(ModelError::NoFile {
            folder: folder.to_path_buf(),
            file: "model.safetensors",
            way_out: "weights are read from model.safetensors, or from its parts with model.safetensors.index.json; other \
                      formats must be converted (save_pretrained in Transformers does)",
        });
    }
    refuse_pointer(&index)?;
    let text = fs::read_to_string(&index).map_err(ModelError::read(&index))?;
    let json_error = |message: String| ModelError::Json { path: index.clone(), message };
    let value: Map<String, Value> =
        serde_json::from_str(&text).map_err(|error| json_error(format!("it is not a JSON object ({error})")))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| json_error("it has no `weight_map` object".into()))?;
    let mut names = map
        .iter()
        .map(|(tensor, file)| {
            file.as_str().ok_or_else(|| json_error(format!("`weight_map.{tensor}` is not a file name")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    names.sort_unstable();
    names.dedup();
    let paths = names.into_iter().map(|name| beside(&index, name).map_err(json_error)).collect::<Result<_, _>>()?;
    Ok((index.clone(), paths))
}

/// Returns a parameter by its name.
pub(super) fn get(parameters: &Parameters, name: &str) -> Result<Tensor, ModelError> {
    let found = parameters.get(name).map(Tensor::shallow_clone);
    found.ok_or_else(|| ModelError::Request(format!("the model has no parameter `{name}`")))
}

/// Returns the embedding and the LM head, which are the same tensor if they are tied.
pub(super) fn embedding_and_head(parameters: &Parameters) -> Result<(Tensor, Tensor), ModelError> {
    let embedding = get(parameters, EMBEDDING)?;
    let head = parameters.get(LM_HEAD).unwrap_or(&embedding).shallow_clone();
    Ok((embedding, head))
}
