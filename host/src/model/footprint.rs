//! Memory and work of training, counted from shapes before anything is loaded: what weights take, what a forward pass keeps
//! for its backward pass, and how many operations both need.
//!
//! The counts follow `layers`, `adapter` and `activations`: a change there that keeps another tensor changes them too.

use tch::{Device, Kind};

use super::adapter::lora::{LoraConfig, TargetModules};
use super::config::ModelConfig;
use super::families::Head;
use super::inputs::ModelInputs;
use super::layers::packed_row::PackedRow;
use super::layers::segments;
use super::parameters::{self, is_linear};
use super::{ModelError, Precision};
use crate::libtorch::widened;

/// Bytes of a value in 4 bits with its share of the scales: half a byte, one byte for 64 values, four for 64 · 256.
const NF4_BYTES: f64 = 0.5 + 1.0 / 64.0 + 4.0 / (64.0 * 256.0);

/// Lengths of the prompts and responses in the rows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowLengths {
    rows: Vec<PackedRow>,
    /// T, padding included.
    num_tokens: i64,
}

impl RowLengths {
    /// Reads them from a batch as the collator lays it out.
    ///
    /// # Errors
    ///
    /// Returns [`ModelError::Request`] if the inputs are not laid out so.
    pub fn read(inputs: &ModelInputs) -> Result<Self, ModelError> {
        let (layout, num_tokens) = (inputs.layout()?, inputs.input_ids.size2()?.1);
        let rows = layout
            .packed_rows
            .ok_or_else(|| ModelError::Request("the rows are not laid out as the collator lays them out".into()))?;
        Ok(Self { rows, num_tokens })
    }

    /// Prompts of one length, each in a row of its own with its responses of one length.
    pub fn uniform(num_prompts: usize, prompt: i64, responses: &[i64]) -> Self {
        let row = PackedRow::of_prompt(prompt, responses);
        Self { rows: vec![row; num_prompts], num_tokens: prompt + responses.iter().sum::<i64>() }
    }

    /// R · T, padding included.
    pub fn num_positions(&self) -> i64 {
        self.rows.len() as i64 * self.num_tokens
    }

    fn is_one_sequence_per_row(&self) -> bool {
        self.rows.iter().all(PackedRow::is_one_sequence)
    }
}

/// A model to train, of which only the shapes are known.
#[derive(Clone, Copy, Debug)]
pub struct Footprint<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// How its weights are held.
    pub precision: Precision,
    /// The adapter that is trained; None trains all weights.
    pub adapter: Option<&'a LoraConfig>,
    /// Where it is trained.
    pub device: Device,
}

/// Operations of the vocabulary projection.
#[derive(Clone, Copy, Debug)]
pub struct HeadOperations {
    /// Logits.
    pub forward: f64,
    /// Gradients of hidden states, and of the head if it is trained.
    pub backward: f64,
}

/// Attention of a batch, as `layers::mask` chooses it.
enum Attention {
    Causal,
    Additive,
    Segments,
}

impl Footprint<'_> {
    /// Bytes of the model's own weights.
    pub fn weight_bytes(&self) -> i64 {
        let is_nf4 = self.precision.nf4 || self.config.is_nf4;
        let element = self.element_bytes();
        let shapes = parameters::shapes(self.config, Head::LanguageModel);
        let bytes = shapes.iter().map(|(name, shape)| {
            let size = shape.iter().product::<i64>();
            if is_nf4 && is_linear(name, shape) { (size as f64 * NF4_BYTES) as i64 } else { size * element }
        });
        bytes.sum()
    }

    /// Number of the model's own parameters.
    pub fn num_parameters(&self) -> i64 {
        parameters::shapes(self.config, Head::LanguageModel).values().map(|shape| shape.iter().product::<i64>()).sum()
    }

    /// Number of parameters that are trained.
    pub fn num_trained(&self) -> i64 {
        match self.adapter {
            Some(adapter) => self.adapted().map(|(inputs, outputs)| adapter.total_rank() * (inputs + outputs)).sum(),
            None => self.num_parameters(),
        }
    }

    /// Bytes of a parameter that is trained: those of adapters are float32.
    pub fn trained_element_bytes(&self) -> i64 {
        if self.adapter.is_some() { 4 } else { self.element_bytes() }
    }

    /// Bytes of a hidden state's value.
    pub fn element_bytes(&self) -> i64 {
        self.precision.kind.elt_size_in_bytes() as i64
    }

    /// Bytes that a forward pass of a batch keeps for its backward pass.
    pub fn kept_bytes(&self, batch: &RowLengths, checkpointing: bool) -> i64 {
        let layers = self.config.num_hidden_layers as i64;
        let hidden = self.config.hidden_size * self.element_bytes() * batch.num_positions();
        let shared = self.shared_bytes(batch);
        if checkpointing {
            // The input of each layer and of the last norm; one layer at a time is computed again.
            return shared + (layers + 1) * hidden + self.layer_bytes(batch);
        }
        let last_norm = 4 * self.config.hidden_size * batch.num_positions();
        // A frozen embedding leaves the first norm and the first layer's input out of the graph.
        shared + layers * self.layer_bytes(batch) + last_norm + hidden
    }

    /// Bytes that the backward pass of one layer needs besides what is kept: gradients of the widest tensors.
    pub fn backward_bytes(&self, batch: &RowLengths) -> i64 {
        let element = self.element_bytes();
        let widest = 3 * self.config.intermediate_size + 2 * self.config.hidden_size;
        let is_widened = widened::is_faster(self.precision.kind, self.device);
        let is_nf4 = self.precision.nf4 || self.config.is_nf4;
        let dequantized = if is_nf4 { self.largest_linear() * if is_widened { 4 } else { element } } else { 0 };
        // What the widest layer is multiplied with, and the product.
        let in_float32 = if is_widened { 4 * (self.config.intermediate_size + self.config.hidden_size) } else { 0 };
        (widest * element + in_float32) * batch.num_positions() + dequantized
    }

    /// Bytes of the vocabulary projection: a chunk of logits within the budget, and what it keeps for the backward pass.
    pub fn loss_bytes(&self, batch: &RowLengths, num_targets: i64, logits_budget_bytes: i64) -> i64 {
        let (element, hidden, vocab) = (self.element_bytes(), self.config.hidden_size, self.config.vocab_size);
        // A row in float32, beside one in 16 bits.
        let row = (4 + if element == 2 { 2 } else { 0 }) * vocab;
        let all = num_targets * row;
        let logits = if all <= logits_budget_bytes {
            all
        } else if self.adapter.is_none() && element >= 4 {
            // Those of as many whole prompts as fit.
            logits_budget_bytes.max(row)
        } else {
            (logits_budget_bytes / 2).max(row)
        };
        let rows = 4 * hidden * num_targets;
        // Gradients of the hidden states, summed in float32.
        let gradient = (4 + element) * hidden * batch.num_positions();
        match self.adapter {
            Some(_) => logits + rows + gradient,
            // Inputs, scaled inputs and their gradients, and the gradient of the head.
            None => logits + rows + 2 * element * hidden * num_targets + gradient + element * hidden * vocab,
        }
    }

    /// Operations of the vocabulary projection of a training step.
    pub fn head_operations(&self, num_targets: i64) -> HeadOperations {
        let product = 2.0 * num_targets as f64 * (self.config.vocab_size * self.config.hidden_size) as f64;
        HeadOperations { forward: product, backward: if self.adapter.is_some() { product } else { 2.0 * product } }
    }

    /// Operations of a forward pass, two for each product and sum, without the vocabulary.
    pub fn forward_operations(&self, batch: &RowLengths) -> f64 {
        let linear: i64 = self.linears().map(|(_, inputs, outputs)| inputs * outputs).sum();
        let adapter: i64 = match self.adapter {
            Some(adapter) => self.adapted().map(|(inputs, outputs)| adapter.total_rank() * (inputs + outputs)).sum(),
            None => 0,
        };
        let width =
            (self.config.num_attention_heads * self.config.head_dim * self.config.num_hidden_layers as i64) as f64;
        2.0 * (linear + adapter) as f64 * batch.num_positions() as f64 + 4.0 * width * self.num_pairs(batch) as f64
    }

    /// Operations of the backward pass of a batch, without the vocabulary: gradients of inputs everywhere, and of the
    /// weights that are trained.
    pub fn backward_operations(&self, batch: &RowLengths, checkpointing: bool) -> f64 {
        let forward = self.forward_operations(batch);
        let trained: i64 = match self.adapter {
            Some(adapter) => self.adapted().map(|(inputs, outputs)| adapter.total_rank() * (inputs + outputs)).sum(),
            None => self.linears().map(|(_, inputs, outputs)| inputs * outputs).sum(),
        };
        let weights = 2.0 * trained as f64 * batch.num_positions() as f64;
        forward + weights + if checkpointing { forward } else { 0.0 }
    }

    /// (query, key) pairs that attention computes.
    fn num_pairs(&self, batch: &RowLengths) -> i64 {
        let rows = batch.rows.len() as i64;
        match self.attention(batch) {
            Attention::Segments => batch.rows.iter().map(PackedRow::num_pairs).sum(),
            Attention::Causal => rows * batch.num_tokens * (batch.num_tokens + 1) / 2,
            Attention::Additive => rows * batch.num_tokens * batch.num_tokens,
        }
    }

    /// Bytes that a decoder layer keeps.
    fn layer_bytes(&self, batch: &RowLengths) -> i64 {
        let config = self.config;
        let (element, tokens) = (self.element_bytes(), batch.num_positions());
        let (query, key_value) = self.attention_widths();
        // Norms: their input, which is the residual stream; their output is the input of the linear layers that follow.
        let mut bytes = 2 * 2 * element * config.hidden_size * tokens;
        let in_one_pass = self.in_one_pass();
        if in_one_pass {
            bytes += 2 * 4 * tokens;
        } else if element != 4 {
            // The input in float32 as well; and what the weight is multiplied by, for its gradient.
            let for_weight = if self.adapter.is_none() { element } else { 0 };
            bytes += 2 * (4 - element + for_weight) * config.hidden_size * tokens;
        }
        // Queries, keys and values, and what attention returns, which is the input of o_proj.
        let repeated = if self.device.is_cuda() && (element == 4 || !matches!(self.attention(batch), Attention::Causal))
        {
            query
        } else {
            key_value
        };
        bytes += element
            * match self.attention(batch) {
                Attention::Segments => {
                    let [trunks, branches] = self.segment_lengths(batch);
                    // Queries stay whole, because those of branches are parts of them; trunks and keys are copies.
                    query * tokens + (query + 2 * repeated) * trunks + 2 * repeated * branches + 2 * query * tokens
                }
                Attention::Causal | Attention::Additive => (query + 2 * repeated) * tokens + query * tokens,
            };
        bytes += 4 * config.num_attention_heads * tokens;
        // The MLP: gate, up, their product, and silu(gate).
        bytes += if in_one_pass { 3 } else { 4 } * element * config.intermediate_size * tokens;
        bytes + self.adapter.map_or(0, |adapter| self.adapter_bytes(adapter, tokens))
    }

    /// Whether norms and gates are computed by `libtorch::rows`.
    fn in_one_pass(&self) -> bool {
        self.device == Device::Cpu && matches!(self.precision.kind, Kind::Float | Kind::BFloat16)
    }

    /// Bytes that the adapter of a layer keeps: A x, the parameters in the model's dtype, and dropped inputs.
    fn adapter_bytes(&self, adapter: &LoraConfig, tokens: i64) -> i64 {
        let (element, rank) = (self.element_bytes(), adapter.total_rank());
        let layers = self.config.num_hidden_layers as i64;
        let of_linears = self.adapted().map(|(inputs, outputs)| {
            let parameters = if element == 4 { 0 } else { rank * (inputs + outputs) * element };
            let dropped = if adapter.dropout > 0.0 { (element + 1) * inputs * tokens } else { 0 };
            rank * tokens * element + parameters + dropped
        });
        of_linears.sum::<i64>() / layers
    }

    /// Bytes that all layers share: masks, and cosines and sines of the positions.
    fn shared_bytes(&self, batch: &RowLengths) -> i64 {
        let rotary = 2 * self.config.head_dim * batch.num_positions();
        let mask = match self.attention(batch) {
            Attention::Additive => batch.num_positions() * batch.num_tokens,
            Attention::Causal | Attention::Segments => 0,
        };
        (rotary + mask) * self.element_bytes()
    }

    fn attention(&self, batch: &RowLengths) -> Attention {
        if batch.is_one_sequence_per_row() {
            Attention::Causal
        } else if segments::pays(&batch.rows, batch.num_tokens, self.device) {
            Attention::Segments
        } else {
            Attention::Additive
        }
    }

    /// Tokens of all trunks, and of all branches with their prompts.
    fn segment_lengths(&self, batch: &RowLengths) -> [i64; 2] {
        let lengths = batch.rows.iter().map(PackedRow::segment_lengths);
        lengths.fold([0, 0], |[trunks, branches], [trunk, branch]| [trunks + trunk, branches + branch])
    }

    /// Widths of all queries, and of all keys.
    fn attention_widths(&self) -> (i64, i64) {
        let config = self.config;
        (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim)
    }

    /// Linear layers of the decoder: path, inputs, outputs.
    fn linears(&self) -> impl Iterator<Item = (String, i64, i64)> {
        let shapes = parameters::shapes(self.config, Head::LanguageModel);
        shapes.into_iter().filter(|(name, shape)| is_linear(name, shape)).map(|(name, shape)| {
            let path = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
            (path, shape[1], shape[0])
        })
    }

    /// Inputs and outputs of the linear layers with an adapter.
    fn adapted(&self) -> impl Iterator<Item = (i64, i64)> {
        let targets = self.adapter.map_or(TargetModules::Names(Vec::new()), |adapter| adapter.target_modules.clone());
        self.linears().filter(move |(path, ..)| targets.contains(path)).map(|(_, inputs, outputs)| (inputs, outputs))
    }

    fn largest_linear(&self) -> i64 {
        self.linears().map(|(_, inputs, outputs)| inputs * outputs).max().unwrap_or(0)
    }
}
