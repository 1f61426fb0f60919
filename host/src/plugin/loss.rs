//! Log-probs and loss.

use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::Exported;
use lambda_dpo_concepts::{Objective, Reduction};
use tch::Tensor;

use super::call::{Output, call, handle, lend, outputs, take, zeroed};
use super::error::PluginError;
use super::load::Plugin;

/// The gradients that the backward will be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// ∂/∂hidden
    pub hidden: bool,
    /// ∂/∂lm_head
    pub lm_head: bool,
    /// ∂/∂logits
    pub logits: bool,
    /// ∂/∂sequence_log_probs
    pub sequence_log_probs: bool,
}

/// The value that 0 stands for in the ABI; ONNX and TorchScript policies keep their logits within it, too.
const DEFAULT_LOGITS_BUDGET_BYTES: usize = 256 << 20;

/// How log-probs and loss are computed; see the ABI's `LossOptions`.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// The objective.
    pub objective: Objective,
    /// The reduction.
    pub reduction: Reduction,
    /// β, above 0 for every objective but `sft`.
    pub beta: f64,
    /// ε of `sigmoid`.
    pub label_smoothing: f64,
    /// γ of `simpo`.
    pub simpo_gamma: f64,
    /// Weight of the negative log-likelihood of the best response.
    pub sft_weight: f64,
    /// Divisor of the loss; None for this call's number of contributing prompts or target tokens.
    pub normalizer: Option<f64>,
    /// Bytes of logits that may be alive at once.
    pub logits_budget_bytes: usize,
    /// Add 1e-10 to the targets.
    pub paper_exact: bool,
    /// The gradients wanted.
    pub wants: Wants,
}

impl Default for LossOptions {
    /// The meaning of the ABI's zeros.
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            reduction: Reduction::default(),
            beta: 0.0,
            label_smoothing: 0.0,
            simpo_gamma: 0.0,
            sft_weight: 0.0,
            normalizer: None,
            logits_budget_bytes: DEFAULT_LOGITS_BUDGET_BYTES,
            paper_exact: false,
            wants: Wants::default(),
        }
    }
}

impl LossOptions {
    fn to_abi(self) -> abi::LossOptions {
        let bit = |wanted: bool, bit: u32| if wanted { bit } else { 0 };
        abi::LossOptions {
            struct_size: size_of::<abi::LossOptions>(),
            objective: self.objective.code(),
            reduction: self.reduction.code(),
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            simpo_gamma: self.simpo_gamma,
            sft_weight: self.sft_weight,
            normalizer: self.normalizer.unwrap_or(0.0),
            logits_budget_bytes: self.logits_budget_bytes as u64,
            paper_exact: u32::from(self.paper_exact),
            wants: bit(self.wants.hidden, abi::WANTS_HIDDEN)
                | bit(self.wants.lm_head, abi::WANTS_LM_HEAD)
                | bit(self.wants.logits, abi::WANTS_LOGITS)
                | bit(self.wants.sequence_log_probs, abi::WANTS_SEQUENCE_LOG_PROBS),
        }
    }
}

/// The inputs as DLPack, alive for a call.
struct Lent {
    raw: abi::LossInputs,
    _tensors: Vec<Exported>,
}

/// Declares [`LossInputs`] and how its tensors are lent.
macro_rules! loss_inputs {
    ($($(#[$doc:meta])* $field:ident),+ $(,)?) => {
        /// Inputs; fields and shapes as in the ABI's `LossInputs`.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct LossInputs<'a> {
            $($(#[$doc])* pub $field: Option<&'a Tensor>,)+
            /// S
            pub num_sequences: i64,
        }

        impl LossInputs<'_> {
            fn lend(&self) -> Result<Lent, PluginError> {
                let num_sequences = u64::try_from(self.num_sequences).unwrap_or(u64::MAX);
                // Its `cuda_stream` is NULL: the program's own work is in libtorch's current stream, too.
                let mut raw = abi::LossInputs { num_sequences, ..zeroed!(abi::LossInputs) };
                let mut tensors = Vec::new();
                $(if let Some(tensor) = self.$field {
                    let exported = lend(tensor)?;
                    raw.$field = exported.as_raw();
                    tensors.push(exported);
                })+
                Ok(Lent { raw, _tensors: tensors })
            }
        }
    };
}

loss_inputs! {
    /// `[R, T, H]`
    hidden,
    /// `[V, H]`
    lm_head,
    /// `[R, T, V]`
    logits,
    /// `[S]`
    sequence_log_probs,
    /// `[K]`
    target_positions,
    /// `[K]`
    target_ids,
    /// `[K]`
    target_sequences,
    /// `[S]`
    sequence_num_tokens,
    /// `[S]`
    reference_log_probs,
    /// `[B + 1]`
    prompt_offsets,
    /// `[M, C]`
    sequence_index,
    /// `[M, C]`
    pi_target,
    /// `[M, C]`
    target_mask,
    /// `[M, C]`
    ranks,
    /// `[B, M]`
    lambda,
}

/// Outputs, in main memory; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct LossOutputs {
    /// `[]`
    pub loss: Tensor,
    /// `[K]`
    pub token_log_probs: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Tensor,
    /// Outputs of a preference objective; None for `sft`.
    pub preferences: Option<PreferenceOutputs>,
}

outputs! {
    /// Outputs that only preference objectives have; see the ABI's `LossOutputs`.
    PreferenceOutputs, abi::LossOutputs, "loss_forward" {
        /// `[S]`
        rewards: Tensor,
        /// `[B]`
        prompt_losses: Tensor,
        /// `[B, M]`
        dimension_losses: Tensor,
        /// `[B, M]`
        dimension_mask: Tensor,
        /// `[B]`
        accuracies: Tensor,
        /// `[B, M]`
        dimension_accuracies: Tensor,
        /// `[B]`
        margins: Tensor,
        /// `[B]`; only with `sft_weight`, or for `orpo`.
        sft_losses: Option<Tensor>,
    }
}

outputs! {
    /// Gradients; None if not asked for.
    LossGradients, abi::LossGradients, "loss_backward" {
        /// Shape of `hidden`.
        hidden: Option<Tensor>,
        /// `[V, H]`
        lm_head: Option<Tensor>,
        /// Shape of `logits`.
        logits: Option<Tensor>,
        /// `[S]`
        sequence_log_probs: Option<Tensor>,
    }
}

handle!(
    /// Intermediate results that a forward keeps for its backward.
    LossContext, abi::LossContext, loss_context_free
);

// SAFETY: the ABI allows any one thread at a time to use a context.
unsafe impl Send for LossContext {}

impl Plugin {
    /// Returns token log-probs `[K]` and sequence log-probs `[S]`, without a loss.
    ///
    /// # Errors
    ///
    /// Returns an error if shapes, dtypes or ids do not fit together, and errors from libtorch.
    pub fn log_probs(&self, inputs: &LossInputs, options: &LossOptions) -> Result<(Tensor, Tensor), PluginError> {
        let (inputs, options) = (inputs.lend()?, options.to_abi());
        let (mut token, mut sequence) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: inputs and options live through the call.
        call(|error| unsafe { (self.api().log_probs)(&inputs.raw, &options, &mut token, &mut sequence, error) })?;
        Ok((take(token, "log_probs")?, take(sequence, "log_probs")?))
    }

    /// Computes the loss, and a context for the backward if `options.wants` asks for gradients.
    ///
    /// # Errors
    ///
    /// As [`log_probs`](Self::log_probs).
    pub fn loss_forward(
        &self,
        inputs: &LossInputs,
        options: &LossOptions,
    ) -> Result<(LossOutputs, Option<LossContext>), PluginError> {
        const CALL: &str = "loss_forward";
        let (inputs, options) = (inputs.lend()?, options.to_abi());
        let mut out = zeroed!(abi::LossOutputs);
        let mut context = std::ptr::null_mut();
        // SAFETY: inputs and options live through the call.
        call(|error| unsafe { (self.api().loss_forward)(&inputs.raw, &options, &mut out, &mut context, error) })?;
        let context = NonNull::new(context).map(|handle| LossContext { plugin: self.clone(), handle });
        let outputs = LossOutputs {
            loss: take(out.loss, CALL)?,
            token_log_probs: Output::take(out.token_log_probs, CALL)?,
            sequence_log_probs: take(out.sequence_log_probs, CALL)?,
            preferences: if out.rewards.is_null() { None } else { Some(PreferenceOutputs::take(&out)?) },
        };
        Ok((outputs, context))
    }
}

impl LossContext {
    /// Returns the gradients of `grad_output` · loss; `inputs` are those of the forward, unchanged.
    ///
    /// # Errors
    ///
    /// As [`Plugin::log_probs`].
    pub fn backward(self, inputs: &LossInputs, grad_output: f64) -> Result<LossGradients, PluginError> {
        let inputs = inputs.lend()?;
        let mut out = zeroed!(abi::LossGradients);
        let backward = self.plugin.api().loss_backward;
        // SAFETY: the context is alive, the inputs live through the call.
        call(|error| unsafe { backward(self.handle.as_ptr(), &inputs.raw, grad_output, &mut out, error) })?;
        LossGradients::take(&out)
    }
}
