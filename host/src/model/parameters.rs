//! The parameters of a model: their names and shapes from the configuration, and their values, loaded or initialised.

mod bitsandbytes;

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::config::ModelConfig;
use super::families::Head;
use super::layers::weight::Weight;
use super::precision::Precision;
use super::random::Random;
use crate::console::say;
use crate::files::beside::beside;
use crate::files::git_lfs::refuse_pointer;
use crate::files::regular;
use crate::files::safetensors::SafetensorsFile;
use crate::libtorch::nf4::{Nf4, is_finite};

/// The embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The weight of the norm after the last layer.
pub(super) const FINAL_NORM: &str = "model.norm.weight";
/// The head of a reward model.
pub(super) const SCORE: &str = "score.weight";
const LM_HEAD: &str = "lm_head.weight";
/// Prefix of the base model's parameters, which a checkpoint of the base class lacks.
const BASE_PREFIX: &str = "model.";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Parameters by their names in the checkpoint.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// In the order of Transformers' `named_parameters`.
    pub(super) dense: IndexMap<String, Tensor>,
    /// Weights of linear layers in 4 bits, which are not among the others.
    pub(super) nf4: IndexMap<String, Nf4>,
}

impl Parameters {
    /// Returns a parameter that is not in 4 bits by its name.
    pub(super) fn get(&self, name: &str) -> Result<Tensor, ModelError> {
        let found = self.dense.get(name).map(Tensor::shallow_clone);
        found.ok_or_else(|| ModelError::Request(format!("the model has no parameter `{name}`")))
    }

    /// Returns the weight of a linear layer by its name.
    pub(super) fn weight(&self, name: &str) -> Result<Weight, ModelError> {
        match self.nf4.get(name) {
            Some(weight) => Ok(Weight::Nf4(weight.shallow_clone())),
            None => Ok(Weight::Dense(self.get(name)?)),
        }
    }

    /// Returns the LM head, which is the embedding if they are tied.
    pub(super) fn lm_head(&self) -> Result<Tensor, ModelError> {
        self.get(if self.dense.contains_key(LM_HEAD) { LM_HEAD } else { EMBEDDING })
    }

    /// Replaces weights in 4 bits by those of a language model, which it returns by name.
    pub(super) fn replace_nf4(&mut self, config: &ModelConfig, mut weights: IndexMap<String, Tensor>) {
        for name in shapes(config, Head::LanguageModel).into_keys() {
            // Each parameter moves to the end, in their order.
            let dense = self.dense.shift_remove(&name);
            if let Some(parameter) = weights.swap_remove(&name).or(dense) {
                self.nf4.swap_remove(&name);
                self.dense.insert(name, parameter);
            }
        }
    }
}

/// Returns names and shapes of all parameters of a model with this head.
pub(super) fn shapes(config: &ModelConfig, head: Head) -> IndexMap<String, Vec<i64>> {
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
    shapes.insert(FINAL_NORM.to_owned(), vec![hidden]);
    match head {
        Head::LanguageModel if config.tie_word_embeddings => {}
        Head::LanguageModel => drop(shapes.insert(LM_HEAD.to_owned(), vec![config.vocab_size, hidden])),
        Head::Score => drop(shapes.insert(SCORE.to_owned(), vec![1, hidden])),
    }
    shapes
}

/// Initialises the parameters of a language model as Transformers does: norms 1, biases 0, the padding token's embedding 0, all others normal
/// with standard deviation `initializer_range`.
///
/// The values depend only on `seed` and the configuration, not on the device; the dtype rounds them.
pub(super) fn random(config: &ModelConfig, device: Device, kind: Kind, seed: u64) -> Result<Parameters, ModelError> {
    let mut parameters = IndexMap::new();
    for (stream, (name, shape)) in shapes(config, Head::LanguageModel).into_iter().enumerate() {
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
    Ok(Parameters { dense: parameters, nf4: IndexMap::new() })
}

/// Whether a parameter is the weight of a linear layer of the decoder, which can be in 4 bits.
pub(super) fn is_linear(name: &str, shape: &[i64]) -> bool {
    name.starts_with("model.layers.") && shape.len() == 2
}

/// Loads the safetensors weights of a model folder, from one file or from several files with an index.
///
/// Names are read as Transformers reads them for the class with this head: a checkpoint of the base class lacks the prefix
/// `model.`, a tied language model may store its LM head instead of its embedding, and the weights of other heads are left
/// out, with a message. Weights that bitsandbytes quantised to NF4 stay as they are.
///
/// All names and shapes are checked before any value is read.
pub(super) fn load(
    folder: &Path,
    config: &ModelConfig,
    head: Head,
    device: Device,
    precision: Precision,
) -> Result<Parameters, ModelError> {
    let (listing, paths) = weight_files(folder)?;
    let files = paths.iter().map(|path| SafetensorsFile::open(path)).collect::<Result<Vec<_>, _>>()?;
    let shapes = shapes(config, head);
    let stores = |name: &str| files.iter().any(|file| file.shape(name).is_some());
    let is_tied = head == Head::LanguageModel && config.tie_word_embeddings;
    let head_is_embedding = is_tied && !stores(EMBEDDING) && !stores(without_prefix(EMBEDDING));
    let quantized = bitsandbytes::find(&files, |name| parameter_name(name, &shapes, head_is_embedding))?;
    let mut sources = IndexMap::new();
    let mut other_heads = Vec::new();
    for (path, file) in paths.iter().zip(&files) {
        for name in file.names() {
            let Some(parameter) = parameter_name(&name, &shapes, head_is_embedding) else {
                match name.as_str() {
                    // Old checkpoints of Llama contain the rotary frequencies, which config.json determines.
                    name if name.ends_with(".rotary_emb.inv_freq") => {}
                    LM_HEAD if is_tied => check_tied(path, file, &files)?,
                    name if quantized.is_part(name) => {}
                    _ if is_of_other_head(&name, head) => other_heads.push(name),
                    _ => return Err(unexpected(path, name, &shapes)),
                }
                continue;
            };
            let found = file.shape(&name).unwrap_or_default();
            match shapes.get(&parameter) {
                Some(shape) if quantized.contains(&parameter) => {
                    bitsandbytes::check_place(file, &name, is_linear(&parameter, shape))?;
                    sources.insert(parameter, (file, name));
                }
                Some(expected) if *expected != found => {
                    bitsandbytes::refuse_codes(file, &name)?;
                    return Err(ModelError::TensorShape {
                        file: path.clone(),
                        tensor: name,
                        source_of_shape: "config.json".into(),
                        expected: expected.clone(),
                        found,
                    });
                }
                _ if parameter != name && stores(&parameter) => {
                    let way_out = format!("it also has `{parameter}`, so leave one of the two out");
                    return Err(ModelError::UnexpectedTensor { file: path.clone(), tensor: name, way_out });
                }
                _ => {
                    bitsandbytes::refuse_codes(file, &name)?;
                    sources.insert(parameter, (file, name));
                }
            }
        }
    }
    quantized.check_all(config, &listing)?;
    let mut parameters = Parameters::default();
    for (name, shape) in shapes {
        let Some((file, stored)) = sources.get(&name) else {
            let way_out = match name.as_str() {
                LM_HEAD => HEADLESS,
                SCORE => SCORELESS,
                _ => "",
            };
            return Err(ModelError::MissingTensor { file: listing, tensor: name, shape, way_out });
        };
        if quantized.contains(&name) {
            let weight = quantized.read(&name, file, stored, &shape)?;
            parameters.nf4.insert(name, weight.to_device(device)?);
        } else if precision.nf4 && is_linear(&name, &shape) {
            let weight = quantize(file, stored, [shape[0], shape[1]])?;
            parameters.nf4.insert(name, weight.to_device(device)?);
        } else {
            let tensor = file.read(stored)?.f_to_device(device)?.f_to_kind(precision.kind)?;
            parameters.dense.insert(name, tensor);
        }
    }
    if !other_heads.is_empty() {
        let names = other_heads.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let own = if head == Head::Score { "the score's" } else { "the LM head" };
        say(&format!("{}: not read, as weights of another head than {own}: {names}", listing.display()));
    }
    Ok(parameters)
}

/// Reads a weight and quantises it to NF4, from the values in the file, whatever the model's dtype.
fn quantize(file: &SafetensorsFile, name: &str, shape: [i64; 2]) -> Result<Nf4, ModelError> {
    Nf4::quantize_from(shape, || {
        let weight = file.read(name)?;
        if is_finite(&weight)? {
            return Ok(weight);
        }
        Err(ModelError::NotFinite { file: file.path().to_path_buf(), tensor: name.to_owned() })
    })
}

/// What to do about a checkpoint without LM head.
const HEADLESS: &str = "; it was saved from a class without LM head (the base model, or a reward model): save the whole \
                        model with `AutoModelForCausalLM`, or set `tie_word_embeddings` if its head is the embedding";

/// What to do about a reward model without its head.
const SCORELESS: &str = "; a reward model's score is a linear layer of this name: save the whole model with \
                         `AutoModelForSequenceClassification`";

fn without_prefix(name: &str) -> &str {
    name.strip_prefix(BASE_PREFIX).unwrap_or(name)
}

/// Returns the parameter that a tensor of a checkpoint is.
fn parameter_name(name: &str, shapes: &IndexMap<String, Vec<i64>>, head_is_embedding: bool) -> Option<String> {
    if shapes.contains_key(name) {
        return Some(name.to_owned());
    }
    if name == LM_HEAD && head_is_embedding {
        return Some(EMBEDDING.to_owned());
    }
    Some(format!("{BASE_PREFIX}{name}")).filter(|name| shapes.contains_key(name))
}

/// Whether a tensor that is no parameter belongs to another head: that of a language model, TRL's value head, or the head
/// of a classifier or reward model.
fn is_of_other_head(name: &str, head: Head) -> bool {
    let other = if head == Head::Score { "lm_head." } else { "score." };
    let heads = ["v_head.", "value_head.", other, "classifier.", "qa_outputs."];
    heads.iter().any(|head| name.starts_with(head))
}

/// The error for a tensor that is no parameter; names a prefix before the names of parameters, which wrappers add.
fn unexpected(path: &Path, tensor: String, shapes: &IndexMap<String, Vec<i64>>) -> ModelError {
    let known = |rest: &str| parameter_name(rest, shapes, false).is_some();
    let border = tensor.match_indices('.').map(|(dot, _)| dot + 1).find(|&border| known(&tensor[border..]));
    let way_out = match border.map(|border| &tensor[..border]) {
        Some(prefix) => format!("remove `{prefix}`, which a wrapper added, from the names of all tensors"),
        None => {
            "load it with `AutoModelForCausalLM` and write it with `save_pretrained`, which leaves out what the model \
                 does not have"
                .to_owned()
        }
    };
    ModelError::UnexpectedTensor { file: path.to_path_buf(), tensor, way_out }
}

/// Some programs write the LM head of a tied model too; it is ignored if it equals the embedding.
fn check_tied(path: &Path, file: &SafetensorsFile, files: &[SafetensorsFile]) -> Result<(), ModelError> {
    let stored = [EMBEDDING, without_prefix(EMBEDDING)];
    let mut candidates = files.iter().flat_map(|file| stored.map(|name| (file, name)));
    let embedding = candidates.find(|(file, name)| file.shape(name).is_some()).map(|(file, name)| file.read(name));
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
    if regular::is_there(&single) {
        return Ok((single.clone(), vec![single]));
    }
    let index = folder.join(INDEX_FILE);
    if !regular::is_there(&index) {
        return Err(ModelError::NoFile {
            folder: folder.to_path_buf(),
            file: "model.safetensors",
            way_out: "weights are read from model.safetensors, or from its parts with model.safetensors.index.json; other \
                      formats must be converted (save_pretrained in Transformers does)",
        });
    }
    refuse_pointer(&index)?;
    let text = regular::read_to_string(&index).map_err(ModelError::read(&index))?;
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
