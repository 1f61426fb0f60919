//! The decoder families: one [`Architecture`] each, which config.json's reader, the decoder and both exports read.
//!
//! To add a family whose decoder differs from Llama's only in these switches, write its constant and list it in
//! [`ALL`]. A difference that has no switch yet becomes a field here, read in `config.rs` (`config.json`),
//! `parameters.rs` (names and shapes), `layers/` (the computation), `export/onnx/decoder.rs` and
//! `export/torchscript.rs`.

/// How a family's decoder differs from the others, and the defaults of its configuration class in Transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Architecture {
    /// The model class, as `architectures` names it.
    pub class_name: &'static str,
    /// The family, as `model_type` names it.
    pub model_type: &'static str,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Bias,
    /// Bias of attention's output projection.
    pub o_proj_bias: Bias,
    /// Biases of the MLP's projections.
    pub mlp_bias: Bias,
    /// Queries and keys are normalised, each head by itself.
    pub qk_norm: bool,
    /// Which layers attend within a sliding window.
    pub sliding_window: SlidingWindow,
    /// Default of `num_key_value_heads`; None: `num_attention_heads`.
    pub num_key_value_heads: Option<i64>,
    /// Default of `head_dim`; None: `hidden_size / num_attention_heads`.
    pub head_dim: Option<i64>,
    /// Default of `max_position_embeddings`.
    pub max_position_embeddings: i64,
}

/// What a model's class puts on the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Logits of the next token: `…ForCausalLM`.
    LanguageModel,
    /// A score of the whole text: `…ForSequenceClassification`.
    Score,
}

impl Architecture {
    /// Returns the class of the family's model with this head, as `architectures` names it.
    pub(super) fn class(&self, head: Head) -> String {
        match head {
            Head::LanguageModel => self.class_name.to_owned(),
            Head::Score => format!("{}ForSequenceClassification", self.class_name.trim_end_matches("ForCausalLM")),
        }
    }

    /// Whether `name` is the family's causal language model, or another class of its decoder: the base class, or one
    /// with another head, whose checkpoints `AutoModelForCausalLM` loads too.
    pub(super) fn is_class(&self, name: &str) -> bool {
        let family = self.class_name.trim_end_matches("ForCausalLM");
        let others = ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"];
        name == self.class_name || name.strip_prefix(family).is_some_and(|rest| others.contains(&rest))
    }
}

/// Whether linear layers have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// No bias.
    Never,
    /// Always a bias.
    Always,
    /// A bias if this field of `config.json` is true; none if it is absent.
    Field(&'static str),
}

/// Which layers attend within a sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlidingWindow {
    /// No layer.
    Never,
    /// Every layer, unless `sliding_window` is null.
    EveryLayer,
    /// If `use_sliding_window` is true: the layers that `layer_types` names, or those from `max_window_layers` on.
    SomeLayers,
}

/// Llama 2, 3, 3.1, 3.2 and models of their architecture.
pub const LLAMA: Architecture = Architecture {
    class_name: "LlamaForCausalLM",
    model_type: "llama",
    qkv_bias: Bias::Field("attention_bias"),
    o_proj_bias: Bias::Field("attention_bias"),
    mlp_bias: Bias::Field("mlp_bias"),
    qk_norm: false,
    sliding_window: SlidingWindow::Never,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
};

/// Mistral 7B and models of its architecture.
pub const MISTRAL: Architecture = Architecture {
    class_name: "MistralForCausalLM",
    model_type: "mistral",
    qkv_bias: Bias::Never,
    o_proj_bias: Bias::Never,
    mlp_bias: Bias::Never,
    qk_norm: false,
    sliding_window: SlidingWindow::EveryLayer,
    num_key_value_heads: Some(8),
    head_dim: None,
    max_position_embeddings: 4096 * 32,
};

/// Qwen 2 and 2.5.
pub const QWEN2: Architecture = Architecture {
    class_name: "Qwen2ForCausalLM",
    model_type: "qwen2",
    qkv_bias: Bias::Always,
    o_proj_bias: Bias::Never,
    mlp_bias: Bias::Never,
    qk_norm: false,
    sliding_window: SlidingWindow::SomeLayers,
    num_key_value_heads: Some(32),
    head_dim: None,
    max_position_embeddings: 32768,
};

/// Qwen 3, dense.
pub const QWEN3: Architecture = Architecture {
    class_name: "Qwen3ForCausalLM",
    model_type: "qwen3",
    qkv_bias: Bias::Field("attention_bias"),
    o_proj_bias: Bias::Field("attention_bias"),
    mlp_bias: Bias::Never,
    qk_norm: true,
    sliding_window: SlidingWindow::SomeLayers,
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32768,
};

/// All families, in the order in which errors list them.
pub const ALL: [&Architecture; 4] = [&LLAMA, &MISTRAL, &QWEN2, &QWEN3];
