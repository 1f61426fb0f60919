//! Stage 5, its shape: what `config.json` says of a model.
//!
//! Both spellings are read: the older `rope_theta` + `rope_scaling` + `torch_dtype` and the newer `rope_parameters` +
//! `dtype`. Fields keep their names; where a field is absent, the default is that of the family's class in Transformers.
//! Sliding windows are honoured; `attention_dropout` is not (all published models of these families have 0).

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tch::Kind;

use super::ModelError;
use super::json_fields::Fields;

/// The decoder families, named as `model_type` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2, 3, 3.1, 3.2 and models of their architecture.
    Llama,
    /// Mistral 7B and its kind.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, dense.
    Qwen3,
}

/// Architecture, `model_type`, family.
const FAMILIES: [(&str, &str, Family); 4] = [
    ("LlamaForCausalLM", "llama", Family::Llama),
    ("MistralForCausalLM", "mistral", Family::Mistral),
    ("Qwen2ForCausalLM", "qwen2", Family::Qwen2),
    ("Qwen3ForCausalLM", "qwen3", Family::Qwen3),
];

/// How rotary frequencies are stretched to longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All positions divided by a factor.
    Linear {
        /// `factor`.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, those between interpolated.
    Llama3 {
        /// `factor`.
        factor: f64,
        /// `low_freq_factor`.
        low_freq_factor: f64,
        /// `high_freq_factor`.
        high_freq_factor: f64,
        /// `original_max_position_embeddings`.
        original_max_position_embeddings: f64,
    },
}

/// What `config.json` says, fields named as there.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// From `architectures`, or `model_type` where that is absent.
    pub family: Family,
    /// Rows of the embedding and the LM head.
    pub vocab_size: i64,
    /// Width of the hidden states.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: i64,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: i64,
    /// Width of a head; `hidden_size / num_attention_heads` unless stated.
    pub head_dim: i64,
    /// The context that the model was made for; longer inputs run all the same.
    pub max_position_embeddings: i64,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How those are stretched.
    pub rope_scaling: RopeScaling,
    /// Biases in attention: in all four projections (Llama, Qwen 3), always in q, k and v alone (Qwen 2), never (Mistral).
    pub attention_bias: bool,
    /// Biases in the MLP (Llama alone).
    pub mlp_bias: bool,
    /// The embedding is the LM head too.
    pub tie_word_embeddings: bool,
    /// How many tokens back a layer of sliding attention sees, itself included.
    pub sliding_window: Option<i64>,
    /// For each layer whether its attention slides (`layer_types`, or what follows from `max_window_layers`).
    pub sliding_layers: Vec<bool>,
    /// Standard deviation of new weights.
    pub initializer_range: f64,
    /// `dtype` or `torch_dtype`, where it is a floating one.
    pub dtype: Option<Kind>,
    /// Token that begins a text.
    pub bos_token_id: Option<i64>,
    /// Tokens that end a text; `config.json` may give one or several.
    pub eos_token_id: Vec<i64>,
    /// Token that pads; its embedding is not trained, as in Transformers.
    pub pad_token_id: Option<i64>,
    /// The whole file, for writing it again.
    pub(super) source: Map<String, Value>,
}

impl ModelConfig {
    /// Reads the `config.json` of a model folder.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when the folder or file is missing, does not parse, lacks a field, or asks for an architecture or
    /// feature that is not supported (named).
    pub fn load(folder: &Path) -> Result<ModelConfig, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError::NoFolder { folder: folder.to_path_buf() });
        }
        let path = folder.join("config.json");
        if !path.exists() {
            return Err(ModelError::NoFile {
                folder: folder.to_path_buf(),
                file: "config.json",
                way_out: "a model folder has config.json, safetensors weights and tokenizer files",
            });
        }
        let text = fs::read_to_string(&path).map_err(ModelError::read(&path))?;
        let source = serde_json::from_str(&text).map_err(|error| ModelError::Json {
            path: path.clone(),
            message: format!("it is not a JSON object ({error})"),
        })?;
        Self::parse(&path, source)
    }

    fn parse(path: &Path, source: Map<String, Value>) -> Result<ModelConfig, ModelError> {
        let fields = Fields::new(path, &source);
        let family = family(&fields)?;
        refuse_unsupported(&fields)?;
        let hidden_size = fields.size("hidden_size")?;
        let num_hidden_layers = fields.size("num_hidden_layers")?;
        let num_attention_heads = fields.size("num_attention_heads")?;
        let default_key_value_heads = match family {
            Family::Llama => num_attention_heads,
            Family::Mistral => 8,
            Family::Qwen2 | Family::Qwen3 => 32,
        };
        let num_key_value_heads = match fields.get("num_key_value_heads") {
            Some(Value::Null) => num_attention_heads,
            Some(_) => fields.size("num_key_value_heads")?,
            None => default_key_value_heads,
        };
        let head_dim = match fields.get_some("head_dim") {
            Some(_) => fields.size("head_dim")?,
            None if family == Family::Qwen3 => 128,
            None => hidden_size / num_attention_heads,
        };
        let default_max_position_embeddings = match family {
            Family::Llama => 2048,
            Family::Mistral => 4096 * 32,
            Family::Qwen2 | Family::Qwen3 => 32768,
        };
        let max_position_embeddings = fields.integer_or("max_position_embeddings", default_max_position_embeddings)?;
        let (rope_theta, rope_scaling) = rope(&fields, max_position_embeddings)?;
        let (sliding_window, sliding_layers) = sliding(&fields, family, num_hidden_layers as usize)?;
        let config = ModelConfig {
            family,
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers: num_hidden_layers as usize,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            attention_bias: match family {
                Family::Llama | Family::Qwen3 => fields.flag_or("attention_bias", false)?,
                Family::Qwen2 => true,
                Family::Mistral => false,
            },
            mlp_bias: family == Family::Llama && fields.flag_or("mlp_bias", false)?,
            tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
            sliding_window,
            sliding_layers,
            initializer_range: fields.number_or("initializer_range", 0.02)?,
            dtype: dtype(&fields),
            bos_token_id: fields.integers("bos_token_id")?.first().copied(),
            eos_token_id: fields.integers("eos_token_id")?,
            pad_token_id: fields.integers("pad_token_id")?.first().copied().filter(|&id| id >= 0),
            source: source.clone(),
        };
        config.check(&fields)?;
        Ok(config)
    }

    /// Whether the output projection of attention has a bias: not so in Qwen 2, whose q, k and v have one.
    #[must_use]
    pub fn o_proj_bias(&self) -> bool {
        self.attention_bias && self.family != Family::Qwen2
    }

    /// Whether queries and keys are normalised head by head.
    #[must_use]
    pub fn qk_norm(&self) -> bool {
        self.family == Family::Qwen3
    }

    fn check(&self, fields: &Fields) -> Result<(), ModelError> {
        let heads = self.num_attention_heads;
        if heads % self.num_key_value_heads != 0 {
            let found = self.num_key_value_heads;
            return Err(fields
                .error(format!("`num_key_value_heads` = {found} does not divide `num_attention_heads` = {heads}")));
        }
        if fields.get_some("head_dim").is_none() && self.hidden_size % heads != 0 {
            let hidden_size = self.hidden_size;
            return Err(fields.error(format!(
                "`hidden_size` = {hidden_size} is no multiple of `num_attention_heads` = {heads}, and there is no `head_dim`"
            )));
        }
        if self.head_dim % 2 != 0 {
            return Err(fields.error(format!("`head_dim` = {} is odd, but rotary positions need pairs", self.head_dim)));
        }
        Ok(())
    }
}

/// By `architectures`, else by `model_type`; refuses others by name.
fn family(fields: &Fields) -> Result<Family, ModelError> {
    let architecture = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let model_type = fields.get("model_type").and_then(Value::as_str);
    let found = FAMILIES.iter().find(|(name, kind, _)| match architecture {
        Some(architecture) => architecture == *name,
        None => model_type == Some(*kind),
    });
    if let Some((_, _, family)) = found {
        return Ok(*family);
    }
    let Some(name) = architecture.or(model_type) else {
        return Err(fields.error("it has neither `architectures` nor `model_type`".into()));
    };
    let supported = FAMILIES.map(|(name, _, _)| name).join(", ");
    Err(fields.unsupported(format!("architecture {name}"), format!("supported are {supported}")))
}

/// Features that change what the model computes, and that the decoder does not have.
fn refuse_unsupported(fields: &Fields) -> Result<(), ModelError> {
    if let Some(activation) = fields.get_some("hidden_act")
        && !matches!(activation.as_str(), Some("silu" | "swish"))
    {
        return Err(fields.unsupported(format!("`hidden_act` = {activation}"), "supported is \"silu\"".into()));
    }
    if let Some(quantization) = fields.get_some("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
        return Err(fields.unsupported(
            format!("quantisation (`quantization_config`, method {method})"),
            "give a model with float32, bfloat16 or float16 weights".into(),
        ));
    }
    Ok(())
}

/// `rope_parameters`, or `rope_theta` and `rope_scaling`.
fn rope(fields: &Fields, max_position_embeddings: i64) -> Result<(f64, RopeScaling), ModelError> {
    let nested = fields.object("rope_scaling")?.filter(|nested| !nested.is_empty());
    let nested = match nested {
        Some(nested) => Some(nested),
        None => fields.object("rope_parameters")?,
    };
    let default_theta = fields.number_or("rope_theta", 10_000.0)?;
    let Some(nested) = nested else { return Ok((default_theta, RopeScaling::Default)) };
    let theta = nested.number_or("rope_theta", default_theta)?;
    let partial = nested.number_or("partial_rotary_factor", fields.number_or("partial_rotary_factor", 1.0)?)?;
    if partial != 1.0 {
        return Err(fields.unsupported(
            format!("`partial_rotary_factor` = {partial}"),
            "all dimensions of a head must be rotated".into(),
        ));
    }
    let kind = nested.get_some("rope_type").or(nested.get_some("type")).and_then(Value::as_str).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: nested.number("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: nested.number("factor")?,
            low_freq_factor: nested.number("low_freq_factor")?,
            high_freq_factor: nested.number("high_freq_factor")?,
            original_max_position_embeddings: nested
                .number_or("original_max_position_embeddings", max_position_embeddings as f64)?,
        },
        other => {
            return Err(fields.unsupported(
                format!("rotary scaling \"{other}\""),
                "supported are \"default\", \"linear\" and \"llama3\"".into(),
            ));
        }
    };
    Ok((theta, scaling))
}

/// The window, and which layers slide.
fn sliding(fields: &Fields, family: Family, num_layers: usize) -> Result<(Option<i64>, Vec<bool>), ModelError> {
    let window = match family {
        Family::Llama => None,
        Family::Mistral => fields.nullable_integer_or("sliding_window", 4096)?,
        Family::Qwen2 | Family::Qwen3 if !fields.flag_or("use_sliding_window", false)? => None,
        Family::Qwen2 | Family::Qwen3 => fields.nullable_integer_or("sliding_window", 4096)?,
    };
    let Some(window) = window else { return Ok((None, vec![false; num_layers])) };
    if window < 1 {
        return Err(fields.error(format!("`sliding_window` = {window} must be positive or null")));
    }
    if family == Family::Mistral {
        return Ok((Some(window), vec![true; num_layers]));
    }
    let Some(layer_types) = fields.get_some("layer_types") else {
        let first = fields.integer_or("max_window_layers", 28)?;
        return Ok((Some(window), (0..num_layers).map(|layer| layer as i64 >= first).collect()));
    };
    let layers =
        layer_types.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|layer| match layer.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(fields.unsupported(
                format!("{layer} in `layer_types`"),
                "supported are \"full_attention\" and \"sliding_attention\"".into(),
            )),
        });
    let layers = layers.collect::<Result<Vec<_>, _>>()?;
    if layers.len() != num_layers {
        let found = layers.len();
        return Err(fields.error(format!("`layer_types` lists {found} layers, `num_hidden_layers` says {num_layers}")));
    }
    Ok((Some(window), layers))
}

fn dtype(fields: &Fields) -> Option<Kind> {
    let name = fields.get_some("dtype").or(fields.get_some("torch_dtype"))?.as_str()?;
    match name.trim_start_matches("torch.") {
        "float32" => Some(Kind::Float),
        "bfloat16" => Some(Kind::BFloat16),
        "float16" => Some(Kind::Half),
        "float64" => Some(Kind::Double),
        _ => None,
    }
}

/// The name of a dtype in `config.json`; `None` for those that no model is of.
#[must_use]
pub fn dtype_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Float => Some("float32"),
        Kind::BFloat16 => Some("bfloat16"),
        Kind::Half => Some("float16"),
        Kind::Double => Some("float64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
