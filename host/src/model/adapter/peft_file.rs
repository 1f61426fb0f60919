//! Adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A λ-adapter has the same two files. Its own `peft_type`, which the Python package registers, makes PEFT alone reject
//! it instead of misreading it; the names of the dimensions and their rank are two more fields.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::files::git_lfs::refuse_pointer;
use crate::files::{atomic, regular, safetensors};
use crate::model::ModelError;
use crate::model::adapter::lambda_parts::LambdaParts;
use crate::model::adapter::lora::{LINEAR_NAMES, Lora, LoraConfig, TargetModules};
use crate::model::json_fields::Fields;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const PLAIN: &str = "LORA";
const WITH_LAMBDA: &str = "LAMBDA_LORA";

/// Features of PEFT that change what an adapter computes and that [`Lora`] does not support.
const UNSUPPORTED: [&str; 18] = [
    "use_dora",
    "use_qalora",
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "exclude_modules",
    "layers_to_transform",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "megatron_config",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "use_bdlora",
];

/// Initialisations of PEFT, besides true and false, that leave the base model's weights unchanged. All others
/// (`pissa`, `olora`, `corda`, `loftq`, `lora_ga`, …) make the adapter a part of the base, and the base the rest: such
/// an adapter means something only together with the changed weights.
const INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Returns the name of a layer's matrix A or B in the file.
pub(in crate::model) fn key(path: &str, matrix: &str) -> String {
    format!("base_model.model.{path}.lora_{matrix}.weight")
}

/// Returns which dimension of a matrix is the rank, by its name in the file: the first of A, the second of B.
pub(in crate::model) fn rank_dim(name: &str) -> i64 {
    i64::from(!name.ends_with(".lora_A.weight"))
}

/// An adapter's folder, with its configuration read and its weights open.
pub(in crate::model) struct AdapterFile {
    folder: PathBuf,
    model: PathBuf,
    config: LoraConfig,
    weights: safetensors::SafetensorsFile,
}

impl AdapterFile {
    /// Opens an adapter; `model` is the model's folder, for error messages.
    pub(in crate::model) fn open(folder: &Path, model: &Path) -> Result<AdapterFile, ModelError> {
        let file = |name: &'static str| {
            let path = folder.join(name);
            if regular::is_there(&path) {
                return Ok(path);
            }
            Err(ModelError::NoFile {
                folder: folder.to_path_buf(),
                file: name,
                way_out: "an adapter in PEFT's format has adapter_config.json and adapter_model.safetensors",
            })
        };
        let config = read_config(&file(CONFIG_FILE)?)?;
        let weights = safetensors::SafetensorsFile::open(&file(WEIGHTS_FILE)?)?;
        Ok(AdapterFile { folder: folder.to_path_buf(), model: model.to_path_buf(), config, weights })
    }

    pub(in crate::model) fn config(&self) -> &LoraConfig {
        &self.config
    }

    fn mismatch(&self, message: String) -> ModelError {
        ModelError::AdapterMismatch { adapter: self.folder.clone(), model: self.model.clone(), message }
    }

    /// Checks that the targets are linear layers of the model.
    pub(in crate::model) fn check_targets(&self, paths: &[String]) -> Result<(), ModelError> {
        match self.config.target_modules.unknown_name(paths) {
            Some(name) => {
                Err(self.mismatch(format!("its target `{name}` is not a linear layer of the model's decoder")))
            }
            None => Ok(()),
        }
    }

    /// Reads the pair of the layer at `path`: A of shape [R, in] and B of shape [out, R].
    pub(in crate::model) fn read(
        &self,
        path: &str,
        (num_outputs, num_inputs): (i64, i64),
        index: u64,
        (kind, device): (Kind, Device),
    ) -> Result<Lora, ModelError> {
        let rank = self.config.total_rank();
        let matrix = |matrix: &str, expected: [i64; 2]| -> Result<Tensor, ModelError> {
            let name = key(path, matrix);
            match self.weights.shape(&name) {
                Some(found) if found == expected => {
                    Ok(self.weights.read(&name)?.f_to_kind(kind)?.f_to_device(device)?)
                }
                Some(found) => Err(self.mismatch(format!(
                    "its tensor `{name}` has shape {found:?}, but the model calls for {expected:?}"
                ))),
                None => Err(self.mismatch(format!("it has no tensor `{name}`"))),
            }
        };
        Ok(Lora {
            a: matrix("A", [rank, num_inputs])?,
            b: matrix("B", [num_outputs, rank])?,
            scaling: self.config.scaling(),
            dropout: self.config.dropout,
            index,
        })
    }

    /// Checks that the file has only the tensors `names`: others would belong to layers that the model does not have.
    pub(in crate::model) fn check_no_others<'n>(
        &self,
        names: impl Iterator<Item = &'n String> + Clone,
    ) -> Result<(), ModelError> {
        let names: std::collections::HashSet<_> = names.collect();
        match self.weights.names().iter().find(|name| !names.contains(name)) {
            Some(name) => Err(self.mismatch(format!("it has a tensor `{name}` that no layer of the model takes"))),
            None => Ok(()),
        }
    }
}

fn read_config(path: &Path) -> Result<LoraConfig, ModelError> {
    refuse_pointer(path)?;
    let text = regular::read_to_string(path).map_err(ModelError::read(path))?;
    let map: Map<String, Value> = serde_json::from_str(&text).map_err(|error| ModelError::Json {
        path: path.to_path_buf(),
        message: format!("it is not a JSON object ({error})"),
    })?;
    let fields = Fields::new(path, &map);
    let way_out = "supported are plain LoRA adapters of linear layers, with or without rsLoRA".to_owned();
    let peft_type = fields.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
    let lambda = match peft_type {
        PLAIN => None,
        WITH_LAMBDA => {
            Some(LambdaParts { dimensions: read_dimensions(&fields)?, rank: fields.size("rank_per_dimension")? })
        }
        _ => return Err(fields.unsupported(format!("`peft_type` = \"{peft_type}\""), way_out)),
    };
    let is_neutral = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    };
    for name in UNSUPPORTED {
        if let Some(value) = fields.get(name).filter(|value| !is_neutral(value)) {
            return Err(fields.unsupported(format!("`{name}` = {value}"), way_out));
        }
    }
    refuse_changed_base(&fields)?;
    if let Some(bias) = fields.get_some("bias").filter(|bias| bias.as_str() != Some("none")) {
        return Err(fields.unsupported(format!("`bias` = {bias}"), way_out));
    }
    let target_modules = match fields.get("target_modules") {
        Some(Value::String(word)) if word == "all-linear" => TargetModules::AllLinear,
        Some(Value::Array(names)) if !names.is_empty() && names.iter().all(Value::is_string) => {
            TargetModules::Names(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        }
        other => {
            let found = other.unwrap_or(&Value::Null);
            return Err(fields.unsupported(
                format!("`target_modules` = {found}"),
                "give a list of layer names, or \"all-linear\"".into(),
            ));
        }
    };
    Ok(LoraConfig {
        rank: if lambda.is_some() { fields.integer_or("r", 0)? } else { fields.size("r")? },
        alpha: fields.number_or("lora_alpha", 8.0)?,
        dropout: fields.number_or("lora_dropout", 0.0)?,
        use_rslora: fields.flag_or("use_rslora", false)?,
        target_modules,
        lambda,
    })
}

/// Refuses an adapter whose initialisation changed the weights of the base model.
fn refuse_changed_base(fields: &Fields) -> Result<(), ModelError> {
    let leaves_base = |value: &Value| match value {
        Value::Bool(_) => true,
        Value::String(name) => INITIALISATIONS.iter().any(|known| name.eq_ignore_ascii_case(known)),
        _ => false,
    };
    match fields.get_some("init_lora_weights") {
        Some(value) if !leaves_base(value) => Err(fields.unsupported(
            format!("`init_lora_weights` = {value}, an initialisation that changes the base model's weights,"),
            "convert the adapter with PEFT's `save_pretrained(…, path_initial_model_for_weight_conversion=…)`, merge it \
             with `merge_and_unload`, or set the field to true if the model given with it has the changed weights"
                .into(),
        )),
        _ => Ok(()),
    }
}

fn read_dimensions(fields: &Fields) -> Result<Vec<String>, ModelError> {
    let names = fields.get("dimensions").and_then(Value::as_array);
    let names: Option<Vec<String>> = names.and_then(|names| {
        let name = |name: &Value| Some(name.as_str()?.to_owned());
        names.iter().map(name).collect()
    });
    names.filter(|names| !names.is_empty()).ok_or_else(|| {
        let found = fields.get("dimensions").unwrap_or(&Value::Null);
        fields.unsupported(format!("`dimensions` = {found}"), "a λ-adapter has the list of their names".into())
    })
}

/// Writes an adapter's folder atomically.
pub(in crate::model) fn write(
    folder: &Path,
    config: &LoraConfig,
    parameters: &IndexMap<String, Tensor>,
    base_name: &str,
) -> Result<(), ModelError> {
    let parts = atomic::Folder::create(folder)?;
    let mut text = format!("{:#}", config_json(config, base_name));
    text.push('\n');
    atomic::write(&parts.path().join(CONFIG_FILE), text.as_bytes())?;
    let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::write(&parts.path().join(WEIGHTS_FILE), tensors, &[("format", "pt")])?;
    Ok(parts.commit()?)
}

/// Returns the fields of PEFT's `LoraConfig` that describe the adapter; PEFT has defaults for the others.
fn config_json(config: &LoraConfig, base_name: &str) -> Value {
    let target_modules = match &config.target_modules {
        TargetModules::AllLinear => LINEAR_NAMES.map(str::to_owned).to_vec(),
        TargetModules::Names(names) => names.clone(),
    };
    // PEFT writes whole alphas as integers.
    let alpha = if config.alpha.fract() == 0.0 { json!(config.alpha as i64) } else { json!(config.alpha) };
    let mut json = json!({
        "peft_type": if config.lambda.is_some() { WITH_LAMBDA } else { PLAIN },
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "revision": null,
        "inference_mode": true,
        "r": config.rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "target_modules": target_modules,
        "bias": "none",
        "use_rslora": config.use_rslora,
        "use_dora": false,
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "modules_to_save": null,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": null,
        "layers_pattern": null,
    });
    if let Some(parts) = &config.lambda {
        json["dimensions"] = json!(parts.dimensions);
        json["rank_per_dimension"] = json!(parts.rank);
    }
    json
}
