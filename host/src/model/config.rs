//! The configuration of a model, read from `config.json`.
//!
//! Both spellings are read: the older `rope_theta` + `rope_scaling` + `torch_dtype` and the newer `rope_parameters` +
//! `dtype`. Fields are named as in the file. The default of an absent field is that of the family's configuration class
//! in Transformers. Sliding windows are supported; `attention_dropout` is ignored (all published models of these
//! families have 0).

use std::path::Path;

use serde_json::{Map, Value};
use tch::Kind;

use super::ModelError;
use super::families::{self, Architecture, Bias, Head, SlidingWindow};
use super::json_fields::Fields;
use crate::files::regular;

/// More layers than any model has: the names of their weights alone would fill the memory.
const MAX_LAYERS: i64 = 1 << 16;

/// How rotary frequencies are scaled for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Unscaled.
    Default,
    /// All positions divided by a factor.
    Linear {
        /// `factor`.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by a factor, high ones are unchanged, those in between are interpolated.
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

/// Configuration of a model; fields are named as in `config.json`.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The family, found by `architectures`, or by `model_type` if that is absent.
    pub architecture: &'static Architecture,
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
    /// Width of a head.
    pub head_dim: i64,
    /// Context length that the model was trained for; longer inputs are not rejected.
    pub max_position_embeddings: i64,
    /// ε, added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are scaled.
    pub rope_scaling: RopeScaling,
    /// The query, key and value projections have biases (`attention_bias`, or always in this family).
    pub qkv_bias: bool,
    /// The output projection of attention has a bias.
    pub o_proj_bias: bool,
    /// The MLP's projections have biases.
    pub mlp_bias: bool,
    /// The LM head shares the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Number of tokens that a token sees in a layer with sliding attention, itself included.
    pub sliding_window: Option<i64>,
    /// For each layer, whether its attention is sliding (from `layer_types` or `max_window_layers`).
    pub sliding_layers: Vec<bool>,
    /// Standard deviation of randomly initialised weights.
    pub initializer_range: f64,
    /// `dtype` or `torch_dtype`, if it is a floating-point type.
    pub dtype: Option<Kind>,
    /// Token at the beginning of a text.
    pub bos_token_id: Option<i64>,
    /// Tokens that end a text; `config.json` may have one or a list.
    pub eos_token_id: Vec<i64>,
    /// Padding token; its embedding is not trained, as in Transformers.
    pub pad_token_id: Option<i64>,
    /// Weights of linear layers are stored in 4 bits, as bitsandbytes writes them (`quantization_config`).
    pub is_nf4: bool,
    /// The whole file, so that it can be written back.
    pub(super) source: Map<String, Value>,
}

impl ModelConfig {
    /// Reads the `config.json` of a model folder.
    ///
    /// # Errors
    ///
    /// Returns a [`ModelError`] if the folder or file is missing, the file is not valid JSON or lacks a field, or its
    /// architecture or one of its features is not supported; the error names it.
    pub fn load(folder: &Path) -> Result<ModelConfig, ModelError> {
        Self::load_with(folder, Head::LanguageModel)
    }

    /// Returns a notice if a text of `longest` tokens is longer than what the model was made for. Such texts are computed,
    /// as Transformers does.
    #[must_use]
    pub fn notice_of_length(&self, longest: usize) -> Option<String> {
        let context = self.max_position_embeddings;
        (longest as i64 > context).then(|| {
            format!(
                "the longest prompt with a response has {longest} tokens, but the model was made for {context} \
                 (max_position_embeddings): what it makes of the rest means little"
            )
        })
    }

    /// Reads it as [`load`](Self::load) does, for a model with this head.
    pub(super) fn load_with(folder: &Path, head: Head) -> Result<ModelConfig, ModelError> {
        if !folder.is_dir() {
            return Err(ModelError::NoFolder { folder: folder.to_path_buf() });
        }
        let path = folder.join("config.json");
        if !regular::is_there(&path) {
            return Err(ModelError::NoFile {
                folder: folder.to_path_buf(),
                file: "config.json",
                way_out: "a model folder has config.json, safetensors weights and tokenizer files",
            });
        }
        let text = regular::read_to_string(&path).map_err(ModelError::read(&path))?;
        let source = serde_json::from_str(&text).map_err(|error| ModelError::Json {
            path: path.clone(),
            message: format!("it is not a JSON object ({error})"),
        })?;
        Self::parse(&path, source, head)
    }

    fn parse(path: &Path, source: Map<String, Value>, head: Head) -> Result<ModelConfig, ModelError> {
        let fields = Fields::new(path, &source);
        let architecture = architecture(&fields, head)?;
        refuse_unsupported(&fields)?;
        let hidden_size = fields.size("hidden_size")?;
        let num_hidden_layers = fields.size_up_to("num_hidden_layers", MAX_LAYERS)?;
        let num_attention_heads = fields.size("num_attention_heads")?;
        let num_key_value_heads = match fields.get("num_key_value_heads") {
            Some(Value::Null) => num_attention_heads,
            Some(_) => fields.size("num_key_value_heads")?,
            None => architecture.num_key_value_heads.unwrap_or(num_attention_heads),
        };
        let head_dim = match fields.get_some("head_dim") {
            Some(_) => fields.size("head_dim")?,
            None => architecture.head_dim.unwrap_or(hidden_size / num_attention_heads),
        };
        let max_position_embeddings =
            fields.integer_or("max_position_embeddings", architecture.max_position_embeddings)?;
        let (rope_theta, rope_scaling) = rope(&fields, max_position_embeddings)?;
        let (sliding_window, sliding_layers) =
            sliding(&fields, architecture.sliding_window, num_hidden_layers as usize)?;
        let config = ModelConfig {
            architecture,
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
            qkv_bias: has_bias(&fields, architecture.qkv_bias)?,
            o_proj_bias: has_bias(&fields, architecture.o_proj_bias)?,
            mlp_bias: has_bias(&fields, architecture.mlp_bias)?,
            tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
            sliding_window,
            sliding_layers,
            initializer_range: fields.number_or("initializer_range", 0.02)?,
            dtype: dtype(&fields),
            bos_token_id: fields.integers("bos_token_id")?.first().copied(),
            eos_token_id: fields.integers("eos_token_id")?,
            pad_token_id: fields.integers("pad_token_id")?.first().copied().filter(|&id| id >= 0),
            is_nf4: is_nf4(&fields)?,
            source: source.clone(),
        };
        config.check(&fields)?;
        Ok(config)
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
                "`hidden_size` = {hidden_size} is not a multiple of `num_attention_heads` = {heads}, and there is no \
                 `head_dim`"
            )));
        }
        if self.head_dim % 2 != 0 {
            return Err(fields.error(format!("`head_dim` = {} is odd, but rotary positions need pairs", self.head_dim)));
        }
        Ok(())
    }
}

/// Finds the family by `architectures`, or by `model_type` if that is absent.
///
/// A language model is read from any class of its family, because its weights may be tied or beside another head; a
/// reward model only from the class that has its head.
fn architecture(fields: &Fields, head: Head) -> Result<&'static Architecture, ModelError> {
    let class_name = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let model_type = fields.get("model_type").and_then(Value::as_str);
    let found = families::ALL.into_iter().find(|architecture| match class_name {
        Some(class_name) => architecture.is_class(class_name),
        None => model_type == Some(architecture.model_type),
    });
    if let Some(architecture) = found {
        return match class_name {
            Some(name) if head == Head::Score && name != architecture.class(head) => {
                let what = if name == architecture.class_name { "a language model" } else { "another model" };
                let expected = architecture.class(head);
                Err(fields.error(format!("{name} is {what}, not a reward model, which is a {expected} with one label")))
            }
            _ => Ok(architecture),
        };
    }
    let Some(name) = class_name.or(model_type) else {
        return Err(fields.error("it has neither `architectures` nor `model_type`".into()));
    };
    let supported = families::ALL.map(|architecture| architecture.class(head)).join(", ");
    Err(match head {
        Head::LanguageModel => fields.unsupported(format!("architecture {name}"), format!("supported are {supported}")),
        Head::Score => fields.unsupported(
            format!("a reward model of architecture {name}"),
            format!("supported are {supported}, and any other by a command that runs it (--rater)"),
        ),
    })
}

fn has_bias(fields: &Fields, bias: Bias) -> Result<bool, ModelError> {
    match bias {
        Bias::Never => Ok(false),
        Bias::Always => Ok(true),
        Bias::Field(name) => fields.flag_or(name, false),
    }
}

/// Rejects features that change what the model computes and that the decoder does not have.
fn refuse_unsupported(fields: &Fields) -> Result<(), ModelError> {
    if let Some(activation) = fields.get_some("hidden_act")
        && !matches!(activation.as_str(), Some("silu" | "swish"))
    {
        return Err(fields.unsupported(format!("`hidden_act` = {activation}"), "supported is \"silu\"".into()));
    }
    Ok(())
}

/// What to do about weights in 8 bits.
pub(super) const INT8_WAY_OUT: &str = "give the model with float32, bfloat16 or float16 weights (`dequantize` of Transformers \
                                       makes them), which can be quantised to nf4 (model.quantize or --quantize)";
/// What to do about weights in fp4.
pub(super) const FP4_WAY_OUT: &str = "give the weights that it was made from, which can be quantised to nf4 (model.quantize or \
                                      --quantize)";

/// Returns whether weights are in NF4 of bitsandbytes; refuses every other quantisation.
fn is_nf4(fields: &Fields) -> Result<bool, ModelError> {
    let Some(quantization) = fields.object("quantization_config")? else { return Ok(false) };
    let text = |name: &str| quantization.get_some(name).and_then(Value::as_str);
    let method = text("quant_method").unwrap_or("unnamed");
    if method != "bitsandbytes" {
        return Err(fields.unsupported(
            format!("quantisation (`quantization_config`, method {method})"),
            "give a model with float32, bfloat16 or float16 weights, or in nf4 of bitsandbytes".into(),
        ));
    }
    if !quantization.flag_or("load_in_4bit", false)? {
        return Err(fields.unsupported(
            "the 8-bit quantisation of bitsandbytes (`quantization_config`, LLM.int8)".into(),
            INT8_WAY_OUT.into(),
        ));
    }
    match text("bnb_4bit_quant_type").unwrap_or("fp4") {
        "nf4" => Ok(true),
        other => Err(fields.unsupported(
            format!("the 4-bit quantisation {other} of bitsandbytes (`quantization_config`)"),
            FP4_WAY_OUT.into(),
        )),
    }
}

/// Reads the base and the scaling of the rotary frequencies, from `rope_parameters` or `rope_theta` and `rope_scaling`.
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

/// Returns the window, and for each layer whether its attention is sliding.
fn sliding(fields: &Fields, rule: SlidingWindow, num_layers: usize) -> Result<(Option<i64>, Vec<bool>), ModelError> {
    let window = match rule {
        SlidingWindow::Never => None,
        SlidingWindow::SomeLayers if !fields.flag_or("use_sliding_window", false)? => None,
        SlidingWindow::EveryLayer | SlidingWindow::SomeLayers => fields.nullable_integer_or("sliding_window", 4096)?,
    };
    let Some(window) = window else { return Ok((None, vec![false; num_layers])) };
    if window < 1 {
        return Err(fields.error(format!("`sliding_window` = {window} must be positive or null")));
    }
    if rule == SlidingWindow::EveryLayer {
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

/// Returns the name of a dtype in `config.json`; `None` if models do not have this dtype.
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
