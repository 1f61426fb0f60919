//! Log-probs and loss.

use std::ptr::NonNull;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::Exported;
use tch::Tensor;

use super::load::{call, lend, take, take_option};
use super::{Plugin, PluginError};

/// What is minimised; see the ABI's `OBJECTIVE_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// λ-DPO.
    Listwise,
    /// Negative log-likelihood.
    Sft,
}

/// What a sequence's log-prob is; see the ABI's `REDUCTION_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// The sum over its tokens.
    Sum,
    /// Their mean.
    Mean,
}

/// The gradients that a backward will be asked for.
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

/// Inputs; fields and shapes as in the ABI's `LossInputs`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossInputs<'a> {
    /// `[R, T, H]`
    pub hidden: Option<&'a Tensor>,
    /// `[V, H]`
    pub lm_head: Option<&'a Tensor>,
    /// `[R, T, V]`
    pub logits: Option<&'a Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<&'a Tensor>,
    /// `[K]`
    pub target_positions: Option<&'a Tensor>,
    /// `[K]`
    pub target_ids: Option<&'a Tensor>,
    /// `[K]`
    pub target_sequences: Option<&'a Tensor>,
    /// S
    pub num_sequences: i64,
    /// `[S]`
    pub reference_log_probs: Option<&'a Tensor>,
    /// `[B + 1]`
    pub prompt_offsets: Option<&'a Tensor>,
    /// `[M, C]`
    pub sequence_index: Option<&'a Tensor>,
    /// `[M, C]`
    pub pi_target: Option<&'a Tensor>,
    /// `[M, C]`
    pub target_mask: Option<&'a Tensor>,
    /// `[B, M]`
    pub lambda: Option<&'a Tensor>,
}

/// Options; see the ABI's `LossOptions`.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// The objective.
    pub objective: Objective,
    /// The reduction.
    pub reduction: Reduction,
    /// β.
    pub beta: f64,
    /// What the loss is divided by; None takes the call's own count.
    pub normalizer: Option<f64>,
    /// Bytes of logits that may be alive at once.
    pub logits_budget_bytes: usize,
    /// Add 1e-10 to the targets.
    pub paper_exact: bool,
    /// Gradients wanted.
    pub wants: Wants,
}

/// Outputs; fields and shapes as in the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct LossOutputs {
    /// `[]`
    pub loss: Tensor,
    /// `[K]`
    pub token_log_probs: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Tensor,
    /// What only the listwise objective has.
    pub listwise: Option<ListwiseOutputs>,
}

/// See the ABI's `LossOutputs`.
#[derive(Debug)]
pub struct ListwiseOutputs {
    /// `[S]`
    pub rewards: Tensor,
    /// `[B]`
    pub prompt_losses: Tensor,
    /// `[B, M]`
    pub dimension_losses: Tensor,
    /// `[B, M]`
    pub dimension_mask: Tensor,
    /// `[B]`
    pub accuracies: Tensor,
    /// `[B, M]`
    pub dimension_accuracies: Tensor,
    /// `[B]`
    pub margins: Tensor,
}

/// Gradients; those not asked for are None.
#[derive(Debug)]
pub struct LossGradients {
    /// Shape of `hidden`.
    pub hidden: Option<Tensor>,
    /// `[V, H]`
    pub lm_head: Option<Tensor>,
    /// Shape of `logits`.
    pub logits: Option<Tensor>,
    /// `[S]`
    pub sequence_log_probs: Option<Tensor>,
}

/// What a backward needs from its forward.
#[derive(Debug)]
pub struct LossContext {
    plugin: Plugin,
    handle: NonNull<abi::LossContext>,
}

// SAFETY: the table lets any one thread use a context.
unsafe impl Send for LossContext {}

/// The inputs as DLPack, alive for a call.
struct Lent {
    raw: abi::LossInputs,
    _tensors: Vec<Exported>,
}

impl LossInputs<'_> {
    fn lend(&self) -> Result<Lent, PluginError> {
        let mut tensors = Vec::new();
        let mut raw = |tensor: Option<&Tensor>| -> Result<abi::Tensor, PluginError> {
            let Some(tensor) = tensor else { return Ok(std::ptr::null_mut()) };
            let exported = lend(tensor)?;
            let raw = exported.as_raw();
            tensors.push(exported);
            Ok(raw)
        };
        let raw = abi::LossInputs {
            struct_size: size_of::<abi::LossInputs>(),
            hidden: raw(self.hidden)?,
            lm_head: raw(self.lm_head)?,
            logits: raw(self.logits)?,
            sequence_log_probs: raw(self.sequence_log_probs)?,
            target_positions: raw(self.target_positions)?,
            target_ids: raw(self.target_ids)?,
            target_sequences: raw(self.target_sequences)?,
            num_sequences: u64::try_from(self.num_sequences).unwrap_or(u64::MAX),
            reference_log_probs: raw(self.reference_log_probs)?,
            prompt_offsets: raw(self.prompt_offsets)?,
            sequence_index: raw(self.sequence_index)?,
            pi_target: raw(self.pi_target)?,
            target_mask: raw(self.target_mask)?,
            lambda: raw(self.lambda)?,
            // The program's own work is on libtorch's current stream, too.
            cuda_stream: std::ptr::null_mut(),
        };
        Ok(Lent { raw, _tensors: tensors })
    }
}

impl LossOptions {
    fn to_abi(self) -> abi::LossOptions {
        let bit = |wanted: bool, bit: u32| if wanted { bit } else { 0 };
        abi::LossOptions {
            struct_size: size_of::<abi::LossOptions>(),
            objective: match self.objective {
                Objective::Listwise => abi::OBJECTIVE_LISTWISE,
                Objective::Sft => abi::OBJECTIVE_SFT,
            },
            reduction: match self.reduction {
                Reduction::Sum => abi::REDUCTION_SUM,
                Reduction::Mean => abi::REDUCTION_MEAN,
            },
            beta: self.beta,
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

const NULL: abi::Tensor = std::ptr::null_mut();

impl Plugin {
    /// Token log-probs `[K]` and sequence log-probs `[S]`, without a loss.
    ///
    /// # Errors
    /// Shapes, dtypes or ids that do not fit together; what libtorch refuses.
    pub fn log_probs(&self, inputs: &LossInputs, options: &LossOptions) -> Result<(Tensor, Tensor), PluginError> {
        let (inputs, options) = (inputs.lend()?, options.to_abi());
        let (mut token, mut sequence) = (NULL, NULL);
        // SAFETY: inputs and options live through the call.
        call(|error| unsafe { (self.api().log_probs)(&inputs.raw, &options, &mut token, &mut sequence, error) })?;
        Ok((take(token, "log_probs")?, take(sequence, "log_probs")?))
    }

    /// The loss, with a context where `options.wants` asks for gradients.
    ///
    /// # Errors
    /// As [`log_probs`](Self::log_probs).
    pub fn loss_forward(
        &self,
        inputs: &LossInputs,
        options: &LossOptions,
    ) -> Result<(LossOutputs, Option<LossContext>), PluginError> {
        const CALL: &str = "loss_forward";
        let (inputs, options) = (inputs.lend()?, options.to_abi());
        let mut out = abi::LossOutputs {
            struct_size: size_of::<abi::LossOutputs>(),
            loss: NULL,
            token_log_probs: NULL,
            sequence_log_probs: NULL,
            rewards: NULL,
            prompt_losses: NULL,
            dimension_losses: NULL,
            dimension_mask: NULL,
            accuracies: NULL,
            dimension_accuracies: NULL,
            margins: NULL,
        };
        let mut context = std::ptr::null_mut();
        // SAFETY: inputs and options live through the call.
        call(|error| unsafe { (self.api().loss_forward)(&inputs.raw, &options, &mut out, &mut context, error) })?;
        let context = NonNull::new(context).map(|handle| LossContext { plugin: self.clone(), handle });
        let listwise = if out.rewards.is_null() {
            None
        } else {
            Some(ListwiseOutputs {
                rewards: take(out.rewards, CALL)?,
                prompt_losses: take(out.prompt_losses, CALL)?,
                dimension_losses: take(out.dimension_losses, CALL)?,
                dimension_mask: take(out.dimension_mask, CALL)?,
                accuracies: take(out.accuracies, CALL)?,
                dimension_accuracies: take(out.dimension_accuracies, CALL)?,
                margins: take(out.margins, CALL)?,
            })
        };
        let outputs = LossOutputs {
            loss: take(out.loss, CALL)?,
            token_log_probs: take_option(out.token_log_probs, CALL)?,
            sequence_log_probs: take(out.sequence_log_probs, CALL)?,
            listwise,
        };
        Ok((outputs, context))
    }
}

impl LossContext {
    /// Gradients of `grad_output` · loss; `inputs` are the forward's, unchanged.
    ///
    /// # Errors
    /// As the forward's.
    pub fn backward(self, inputs: &LossInputs, grad_output: f64) -> Result<LossGradients, PluginError> {
        const CALL: &str = "loss_backward";
        let inputs = inputs.lend()?;
        let mut out = abi::LossGradients {
            struct_size: size_of::<abi::LossGradients>(),
            hidden: NULL,
            lm_head: NULL,
            logits: NULL,
            sequence_log_probs: NULL,
        };
        let backward = self.plugin.api().loss_backward;
        // SAFETY: the context is alive, the inputs live through the call.
        call(|error| unsafe { backward(self.handle.as_ptr(), &inputs.raw, grad_output, &mut out, error) })?;
        Ok(LossGradients {
            hidden: take_option(out.hidden, CALL)?,
            lm_head: take_option(out.lm_head, CALL)?,
            logits: take_option(out.logits, CALL)?,
            sequence_log_probs: take_option(out.sequence_log_probs, CALL)?,
        })
    }
}

impl Drop for LossContext {
    fn drop(&mut self) {
        // SAFETY: the handle is alive and not used again.
        unsafe { (self.plugin.api().loss_context_free)(self.handle.as_ptr()) }
    }
}
