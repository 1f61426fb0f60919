//! Exports a policy as a TorchScript module: the decoder as source text over the checkpoint's parameters.
//!
//! The module is scripted, not traced, so it runs on any number of rows and tokens. Parameters keep their names and are
//! trainable.

use std::path::Path;

use tch::Tensor;

use super::ExportError;
use crate::files::atomic;
use crate::libtorch::script::{SCRIPT_FILE, Script};
use crate::model::{Model, ModelConfig};

/// `ScalarType::Float` in source text.
const FLOAT32: i32 = 6;

/// Name of the rotary frequencies in Transformers.
const INV_FREQ: &str = "model.rotary_emb.inv_freq";

/// Writes `model.pt`, `config.json`, tokenizer, chat template and generation config into `folder`.
///
/// `forward(input_ids, attention_mask, position_ids)` takes int64 [rows, tokens] and returns logits [rows, tokens, V]
/// in the dtype of the weights.
///
/// # Errors
///
/// Returns an [`ExportError`] if the model has an adapter that is not merged or weights in 4 bits, a file of `source`, the model's folder,
/// cannot be read, or writing fails.
pub fn write(model: &Model, source: &Path, folder: &Path) -> Result<(), ExportError> {
    if model.has_adapter() {
        return Err(ExportError::Adapter);
    }
    model.check_not_quantized()?;
    model.write_companions(folder, source)?;
    let inv_freq = Tensor::f_from_slice(&model.rotary_frequencies()?)?;
    let parameters = model.named_parameters().map(|(name, tensor)| (name.clone(), tensor, false));
    let tensors = parameters.chain([(INV_FREQ.to_owned(), &inv_freq, true)]).collect();
    let config = model.config();
    let layers = (0..config.num_hidden_layers).map(|layer| (format!("model.layers.{layer}"), layer_source(config)));
    let sources = layers.chain([(String::new(), decoder_source(config))]).collect();
    let script = Script { tensors, sources };
    Ok(atomic::write_with(&folder.join(SCRIPT_FILE), |file| script.save(file))?)
}

/// Method for the RMS norm, computed in float32 and rounded before the weight is applied.
fn norm_source(config: &ModelConfig) -> String {
    format!(
        "
def norm(self, x: Tensor, weight: Tensor) -> Tensor:
    wide = x.to({float})
    mean_square = torch.mean(wide * wide, [-1], True)
    return (wide * torch.rsqrt(mean_square + {eps:e})).to(x.dtype) * weight
",
        float = FLOAT32,
        eps = config.rms_norm_eps,
    )
}

/// Methods of the model: tokens → rotary angles and masks → layers → logits.
fn decoder_source(config: &ModelConfig) -> String {
    let mut source = norm_source(config);
    source += &format!(
        "
def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
    hidden = torch.embedding(self.model.embed_tokens.weight, input_ids)
    angles = torch.unsqueeze(position_ids.to({float}), -1) * self.{INV_FREQ}
    angles = torch.unsqueeze(torch.cat([angles, angles], -1), 1)
    cos = torch.cos(angles).to(hidden.dtype)
    sin = torch.sin(angles).to(hidden.dtype)
    index = torch.arange(torch.size(input_ids, 1), device=input_ids.device)
    keys = torch.unsqueeze(index, 0)
    queries = torch.unsqueeze(index, 1)
    tokens = torch.unsqueeze(torch.ne(attention_mask, 0), 1)
    visible = torch.logical_and(torch.logical_or(tokens, torch.eq(keys, queries)), torch.le(keys, queries))
    full = torch.masked_fill(torch.zeros_like(visible).to(hidden.dtype), torch.logical_not(visible), float('-inf'))
    full = torch.unsqueeze(full, 1)
",
        float = FLOAT32,
    );
    if let Some(window) = config.sliding_window {
        source += &format!(
            "    distance = torch.unsqueeze(position_ids, 2) - torch.unsqueeze(position_ids, 1)
    far = torch.unsqueeze(torch.ge(distance, {window}), 1)
    sliding = torch.masked_fill(full, far, float('-inf'))
"
        );
    }
    for (layer, is_sliding) in config.sliding_layers.iter().enumerate() {
        let bias = if *is_sliding { "sliding" } else { "full" };
        source += &format!("    hidden = getattr(self.model.layers, \"{layer}\").forward(hidden, cos, sin, {bias})\n");
    }
    let head = if config.tie_word_embeddings { "model.embed_tokens" } else { "lm_head" };
    source += &format!(
        "    hidden = self.norm(hidden, self.model.norm.weight)
    return torch.linear(hidden, self.{head}.weight)
"
    );
    source
}

/// Methods of one layer, the same for all layers.
fn layer_source(config: &ModelConfig) -> String {
    let linear = |name: &str, has_bias: bool| {
        if has_bias { format!("self.{name}.weight, self.{name}.bias") } else { format!("self.{name}.weight") }
    };
    let (query_norm, key_norm) = if config.architecture.qk_norm {
        let norm = |name: &str| format!("self.norm({name}, self.self_attn.{name}_norm.weight)");
        (norm("q"), norm("k"))
    } else {
        ("q".to_owned(), "k".to_owned())
    };
    norm_source(config)
        + &format!(
            "
def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.chunk(x, 2, -1)
    return x * cos + torch.cat([torch.neg(second), first], -1) * sin

def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
    x = self.norm(hidden, self.input_layernorm.weight)
    q = torch.unflatten(torch.linear(x, {q}), -1, [-1, {head_dim}])
    k = torch.unflatten(torch.linear(x, {k}), -1, [-1, {head_dim}])
    v = torch.unflatten(torch.linear(x, {v}), -1, [-1, {head_dim}])
    q = self.rotate(torch.transpose({query_norm}, 1, 2), cos, sin)
    k = self.rotate(torch.transpose({key_norm}, 1, 2), cos, sin)
    v = torch.transpose(v, 1, 2)
    attended = torch.scaled_dot_product_attention(q, k, v, bias, 0., False, scale=None, enable_gqa={is_grouped})
    attended = torch.flatten(torch.transpose(attended, 1, 2), 2)
    hidden = hidden + torch.linear(attended, {o})
    x = self.norm(hidden, self.post_attention_layernorm.weight)
    gated = torch.silu(torch.linear(x, {gate})) * torch.linear(x, {up})
    return hidden + torch.linear(gated, {down})
",
            q = linear("self_attn.q_proj", config.qkv_bias),
            k = linear("self_attn.k_proj", config.qkv_bias),
            v = linear("self_attn.v_proj", config.qkv_bias),
            o = linear("self_attn.o_proj", config.o_proj_bias),
            gate = linear("mlp.gate_proj", config.mlp_bias),
            up = linear("mlp.up_proj", config.mlp_bias),
            down = linear("mlp.down_proj", config.mlp_bias),
            head_dim = config.head_dim,
            is_grouped = if config.num_attention_heads == config.num_key_value_heads { "False" } else { "True" },
        )
}
