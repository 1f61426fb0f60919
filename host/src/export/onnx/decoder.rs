//! The decoder of `host/src/model` as a graph of ONNX operators, with one sequence per row.
//!
//! Hidden states are [N, H] with N = rows · tokens, so that a linear layer is one `Gemm` with the checkpoint's weight,
//! [out, in]. Attention has shape [R, G, Q, T, D]: G key-value heads, with Q query heads each.

use tch::Kind;

use super::graph::{Dim, Graph, int, ints};
use crate::files::onnx_proto::{ELEMENT_BOOL, ELEMENT_FLOAT, ELEMENT_FLOAT16, ELEMENT_INT64, GraphProto};
use crate::model::ModelConfig;

/// Added to the score of a masked key: the lowest float32 and not −∞, so that no row of the softmax is NaN.
const UNSEEN: f32 = f32::MIN;

/// Values that all layers share.
struct Shared {
    /// [R, 1, 1, T, D] in the weights' dtype.
    cos: String,
    sin: String,
    /// [R, 1, 1, T, T] float32: 0 if a query sees a key, else [`UNSEEN`].
    full_bias: String,
    sliding_bias: String,
    /// The shapes [R, T, G, Q, D] and [R, T, G, 1, D].
    query_shape: String,
    key_shape: String,
    /// 1 / √D.
    scale: String,
}

/// Builds the graph of one model.
pub(super) struct Decoder<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) kind: Kind,
    /// Rotary frequencies with their scaling, [D / 2].
    pub(super) inv_freq: &'a [f32],
    pub(super) graph: Graph,
}

impl Decoder<'_> {
    /// Builds the graph, with the inputs `input_ids`, `attention_mask` and `position_ids`, [batch, sequence] int64, and
    /// the output `logits`, [batch, sequence, V] float32.
    pub(super) fn build(mut self) -> GraphProto {
        let dims = [Dim::Dynamic("batch"), Dim::Dynamic("sequence")];
        for name in ["input_ids", "attention_mask", "position_ids"] {
            self.graph.input(name, ELEMENT_INT64, &dims);
        }
        let config = self.config;
        let tokens_shape = self.graph.op("Shape", &["input_ids"], "tokens_shape"); // [R, T]
        let embedded = self.graph.op("Gather", &["model.embed_tokens.weight", "input_ids"], "embedded");
        let rows = self.graph.integers("hidden_shape", &[-1, config.hidden_size], &[2]);
        let mut hidden = self.graph.op("Reshape", &[&embedded, &rows], "hidden");
        let shared = self.shared(&tokens_shape);
        for layer in 0..config.num_hidden_layers {
            hidden = self.layer(layer, &hidden, &shared);
        }
        let normed = self.norm("model.norm", &hidden, "model.norm");
        let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let mut logits = self.graph.op_with("Gemm", &[&normed, head], "lm_head", vec![int("transB", 1)]);
        logits = self.widen(&logits, "lm_head.float32");
        let vocab_size = self.graph.integers("vocab_size", &[config.vocab_size], &[1]);
        let shape = self.concat(&[&tokens_shape, &vocab_size], "logits_shape", 0);
        self.graph.op("Reshape", &[&logits, &shape], "logits");
        self.graph.output("logits", ELEMENT_FLOAT, &[dims[0], dims[1], Dim::Fixed(config.vocab_size)]);
        self.graph.finish("decoder")
    }

    fn shared(&mut self, tokens_shape: &str) -> Shared {
        let config = self.config;
        let num_groups = config.num_attention_heads / config.num_key_value_heads;
        let query = [config.num_key_value_heads, num_groups, config.head_dim];
        let query = self.graph.integers("query_heads", &query, &[3]);
        let key = self.graph.integers("key_heads", &[config.num_key_value_heads, 1, config.head_dim], &[3]);
        let query_shape = self.concat(&[tokens_shape, &query], "query_shape", 0);
        let key_shape = self.concat(&[tokens_shape, &key], "key_shape", 0);
        let (cos, sin) = self.rotary();
        let visible = self.visible(tokens_shape);
        let full_bias = self.bias(&visible, "mask.bias");
        let sliding_bias = self.sliding_bias(&visible).unwrap_or_else(|| full_bias.clone());
        let scale = (config.head_dim as f32).sqrt().recip();
        let scale = self.graph.floats("attention_scale.float32", &[scale], &[]);
        let scale = self.narrow(&scale, "attention_scale");
        Shared { cos, sin, full_bias, sliding_bias, query_shape, key_shape, scale }
    }

    /// Cosines and sines of the rotary angles, computed in float32 and rounded once.
    fn rotary(&mut self) -> (String, String) {
        let size = self.inv_freq.len() as i64;
        let frequencies = self.graph.floats("rotary.inv_freq", self.inv_freq, &[size]);
        let positions = self.cast("position_ids", ELEMENT_FLOAT, "rotary.positions");
        let positions = self.unsqueeze(&positions, &[2], "rotary.column");
        let half = self.graph.op("Mul", &[&positions, &frequencies], "rotary.half_angles"); // [R, T, D / 2]
        let angles = self.concat(&[&half, &half], "rotary.angles", -1);
        let angles = self.unsqueeze(&angles, &[1, 2], "rotary.heads");
        let cos = self.graph.op("Cos", &[&angles], "rotary.cos.float32");
        let sin = self.graph.op("Sin", &[&angles], "rotary.sin.float32");
        (self.narrow(&cos, "rotary.cos"), self.narrow(&sin, "rotary.sin"))
    }

    /// [R, T, T] bool: a token sees itself and the tokens before it in its row, except padding.
    fn visible(&mut self, tokens_shape: &str) -> String {
        let zero = self.graph.integers("zero", &[0], &[]);
        let one = self.graph.integers("one", &[1], &[]);
        let num_tokens = self.graph.op("Gather", &[tokens_shape, &one], "mask.num_tokens");
        let index = self.graph.op("Range", &[&zero, &num_tokens, &one], "mask.index");
        let queries = self.unsqueeze(&index, &[1], "mask.queries");
        let keys = self.unsqueeze(&index, &[0], "mask.keys");
        let causal = self.graph.op("LessOrEqual", &[&keys, &queries], "mask.causal"); // [T, T]
        let own = self.graph.op("Equal", &[&keys, &queries], "mask.own");
        let tokens = self.cast("attention_mask", ELEMENT_BOOL, "mask.tokens");
        let tokens = self.unsqueeze(&tokens, &[1], "mask.tokens.keys"); // [R, 1, T]
        let tokens = self.graph.op("Or", &[&tokens, &own], "mask.tokens_or_own"); // [R, T, T]
        self.graph.op("And", &[&tokens, &causal], "mask.visible")
    }

    /// The bias of layers with sliding attention, in which a token sees only positions less than a window before its
    /// own.
    fn sliding_bias(&mut self, visible: &str) -> Option<String> {
        let window = self.config.sliding_window.filter(|_| self.config.sliding_layers.contains(&true))?;
        let queries = self.unsqueeze("position_ids", &[2], "mask.query_positions");
        let keys = self.unsqueeze("position_ids", &[1], "mask.key_positions");
        let distance = self.graph.op("Sub", &[&queries, &keys], "mask.distance"); // [R, T, T]
        let window = self.graph.integers("sliding_window", &[window], &[]);
        let near = self.graph.op("Less", &[&distance, &window], "mask.near");
        let visible = self.graph.op("And", &[visible, &near], "mask.sliding.visible");
        Some(self.bias(&visible, "mask.sliding.bias"))
    }

    fn bias(&mut self, visible: &str, name: &str) -> String {
        let seen = self.graph.floats("seen", &[0.0], &[]);
        let unseen = self.graph.floats("unseen", &[UNSEEN], &[]);
        let bias = self.graph.op("Where", &[visible, &seen, &unseen], &format!("{name}.rows"));
        self.unsqueeze(&bias, &[1, 2], name)
    }

    fn layer(&mut self, layer: usize, hidden: &str, shared: &Shared) -> String {
        let path = format!("model.layers.{layer}");
        let normed = self.norm(&format!("{path}.input_layernorm"), hidden, &format!("{path}.input_layernorm"));
        let bias = if self.config.sliding_layers[layer] { &shared.sliding_bias } else { &shared.full_bias };
        let attended = self.attention(&format!("{path}.self_attn"), &normed, bias, shared);
        let hidden = self.graph.op("Add", &[hidden, &attended], &format!("{path}.self_attn.residual"));
        let name = format!("{path}.post_attention_layernorm");
        let normed = self.norm(&name, &hidden, &name);
        let fed = self.mlp(&format!("{path}.mlp"), &normed);
        self.graph.op("Add", &[&hidden, &fed], &format!("{path}.mlp.residual"))
    }

    fn attention(&mut self, path: &str, input: &str, bias: &str, shared: &Shared) -> String {
        let has_bias = self.config.qkv_bias;
        let heads = |decoder: &mut Self, name: &str, shape: &str| {
            let projected = decoder.linear(&format!("{path}.{name}_proj"), input, has_bias);
            decoder.heads(&format!("{path}.{name}"), &projected, shape, name != "v")
        };
        let query = heads(self, "q", &shared.query_shape);
        let key = heads(self, "k", &shared.key_shape);
        let value = heads(self, "v", &shared.key_shape); // [R, G, 1, T, D]
        let query = self.rotate(&query, shared, &format!("{path}.q"));
        let key = self.rotate(&key, shared, &format!("{path}.k"));
        let query = self.graph.op("Mul", &[&query, &shared.scale], &format!("{path}.q.scaled"));
        let key = self.transpose(&key, &[0, 1, 2, 4, 3], &format!("{path}.k.transposed"));
        let scores = self.graph.op("MatMul", &[&query, &key], &format!("{path}.scores")); // [R, G, Q, T, T]
        let scores = self.widen(&scores, &format!("{path}.scores.float32"));
        let scores = self.graph.op("Add", &[&scores, bias], &format!("{path}.scores.masked"));
        let axis = vec![int("axis", -1)];
        let weights = self.graph.op_with("Softmax", &[&scores], &format!("{path}.weights.float32"), axis);
        let weights = self.narrow(&weights, &format!("{path}.weights"));
        let attended = self.graph.op("MatMul", &[&weights, &value], &format!("{path}.attended"));
        let attended = self.transpose(&attended, &[0, 3, 1, 2, 4], &format!("{path}.attended.tokens"));
        let width = self.config.num_attention_heads * self.config.head_dim;
        let shape = self.graph.integers("attended_shape", &[-1, width], &[2]);
        let attended = self.graph.op("Reshape", &[&attended, &shape], &format!("{path}.attended.rows"));
        self.linear(&format!("{path}.o_proj"), &attended, self.config.o_proj_bias)
    }

    /// [N, heads · D] to [R, G, Q, T, D]; queries and keys are normalised if the architecture has these norms.
    fn heads(&mut self, name: &str, projected: &str, shape: &str, is_normed: bool) -> String {
        let mut heads = self.graph.op("Reshape", &[projected, shape], &format!("{name}.tokens"));
        if is_normed && self.config.architecture.qk_norm {
            heads = self.norm(&format!("{name}_norm"), &heads, &format!("{name}_norm"));
        }
        self.transpose(&heads, &[0, 2, 3, 1, 4], &format!("{name}.heads"))
    }

    /// x ⊙ cos + (−x₂, x₁) ⊙ sin, with x = (x₁, x₂).
    fn rotate(&mut self, heads: &str, shared: &Shared, name: &str) -> String {
        let half = self.config.head_dim / 2;
        let slice = |decoder: &mut Self, from: i64, to: i64, part: &str| {
            let from = decoder.graph.integers(&format!("slice.{from}"), &[from], &[1]);
            let to = decoder.graph.integers(&format!("slice.{to}"), &[to], &[1]);
            let last = decoder.graph.integers("last_axis", &[-1], &[1]);
            decoder.graph.op("Slice", &[heads, &from, &to, &last], &format!("{name}.{part}"))
        };
        let first = slice(self, 0, half, "first");
        let second = slice(self, half, 2 * half, "second");
        let negative = self.graph.op("Neg", &[&second], &format!("{name}.negative"));
        let turned = self.concat(&[&negative, &first], &format!("{name}.turned"), -1);
        let straight = self.graph.op("Mul", &[heads, &shared.cos], &format!("{name}.cos"));
        let turned = self.graph.op("Mul", &[&turned, &shared.sin], &format!("{name}.sin"));
        self.graph.op("Add", &[&straight, &turned], &format!("{name}.rotated"))
    }

    /// down(silu(gate(x)) ⊙ up(x))
    fn mlp(&mut self, path: &str, input: &str) -> String {
        let has_bias = self.config.mlp_bias;
        let gate = self.linear(&format!("{path}.gate_proj"), input, has_bias);
        let up = self.linear(&format!("{path}.up_proj"), input, has_bias);
        let sigmoid = self.graph.op("Sigmoid", &[&gate], &format!("{path}.sigmoid"));
        let silu = self.graph.op("Mul", &[&gate, &sigmoid], &format!("{path}.silu"));
        let gated = self.graph.op("Mul", &[&silu, &up], &format!("{path}.gated"));
        self.linear(&format!("{path}.down_proj"), &gated, has_bias)
    }

    fn linear(&mut self, path: &str, input: &str, has_bias: bool) -> String {
        let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        let inputs: &[&str] = if has_bias { &[input, &weight, &bias] } else { &[input, &weight] };
        self.graph.op_with("Gemm", inputs, path, vec![int("transB", 1)])
    }

    /// x / √(mean(x²) + ε) in float32, rounded, then the weight.
    fn norm(&mut self, path: &str, input: &str, name: &str) -> String {
        let eps = self.graph.floats("rms_norm_eps", &[self.config.rms_norm_eps as f32], &[]);
        let last = self.graph.integers("last_axis", &[-1], &[1]);
        let wide = self.widen(input, &format!("{name}.float32"));
        let square = self.graph.op("Mul", &[&wide, &wide], &format!("{name}.square"));
        let mean = self.graph.op("ReduceMean", &[&square, &last], &format!("{name}.mean"));
        let mean = self.graph.op("Add", &[&mean, &eps], &format!("{name}.mean_eps"));
        let root = self.graph.op("Sqrt", &[&mean], &format!("{name}.root"));
        let normed = self.graph.op("Div", &[&wide, &root], &format!("{name}.normed.float32"));
        let normed = self.narrow(&normed, &format!("{name}.normed"));
        self.graph.op("Mul", &[&normed, &format!("{path}.weight")], name)
    }

    fn cast(&mut self, input: &str, element: i32, name: &str) -> String {
        self.graph.op_with("Cast", &[input], name, vec![int("to", i64::from(element))])
    }

    /// Casts to float32 if the weights are not.
    fn widen(&mut self, input: &str, name: &str) -> String {
        if self.kind == Kind::Half { self.cast(input, ELEMENT_FLOAT, name) } else { input.to_owned() }
    }

    /// Casts back to the weights' dtype.
    fn narrow(&mut self, input: &str, name: &str) -> String {
        if self.kind == Kind::Half { self.cast(input, ELEMENT_FLOAT16, name) } else { input.to_owned() }
    }

    fn unsqueeze(&mut self, input: &str, axes: &[i64], name: &str) -> String {
        let label: Vec<String> = axes.iter().map(i64::to_string).collect();
        let axes = self.graph.integers(&format!("axes.{}", label.join("_")), axes, &[axes.len() as i64]);
        self.graph.op("Unsqueeze", &[input, &axes], name)
    }

    fn transpose(&mut self, input: &str, order: &[i64], name: &str) -> String {
        self.graph.op_with("Transpose", &[input], name, vec![ints("perm", order)])
    }

    fn concat(&mut self, inputs: &[&str], name: &str, axis: i64) -> String {
        self.graph.op_with("Concat", inputs, name, vec![int("axis", axis)])
    }
}
