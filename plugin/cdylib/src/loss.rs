//! Stages 6 and 7: log-probs and loss on borrowed tensors.

use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::{Mutex, PoisonError};

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::CurrentStream;
use lambda_dpo_core::{DEFAULT_LOGITS_BUDGET_BYTES, LossContext, LossInputs, LossOptions, Wants};
use tch::{Device, Tensor};

use crate::arguments::{flag, reference_mut, write};
use crate::concepts::concept;
use crate::growth::{self, Output};
use crate::guard::{Failure, Outcome, call};
use crate::handle::Handle;
use crate::tensors::{borrow, copied, export, export_option, raw_option};

/// The inputs of one call as tensors. The large ones are views that must not outlive it; the small ones are copies.
struct Inputs {
    hidden: Option<Tensor>,
    lm_head: Option<Tensor>,
    logits: Option<Tensor>,
    sequence_log_probs: Option<Tensor>,
    target_positions: Option<Tensor>,
    target_ids: Option<Tensor>,
    target_sequences: Option<Tensor>,
    num_sequences: i64,
    reference_log_probs: Option<Tensor>,
    prompt_offsets: Option<Tensor>,
    sequence_index: Option<Tensor>,
    pi_target: Option<Tensor>,
    target_mask: Option<Tensor>,
    lambda: Option<Tensor>,
    stream: *mut c_void,
    /// Left last: what goes before it may queue work.
    _current: Option<CurrentStream>,
}

impl Inputs {
    /// # Safety
    /// `inputs` is NULL or valid, with its tensors, as long as the result lives.
    unsafe fn read(inputs: *const abi::LossInputs) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        unsafe {
            let inputs = growth::read(inputs, "inputs")?;
            let num_sequences = i64::try_from(inputs.num_sequences).map_err(|_| {
                Failure::argument(format!("`num_sequences` is {}, which is impossible", inputs.num_sequences))
            })?;
            let hidden = borrow(inputs.hidden, "hidden")?;
            let logits = borrow(inputs.logits, "logits")?;
            let sequence_log_probs = borrow(inputs.sequence_log_probs, "sequence_log_probs")?;
            let scored = hidden.as_ref().or(logits.as_ref()).or(sequence_log_probs.as_ref());
            let current = enter(inputs.cuda_stream, scored)?;
            Ok(Self {
                hidden,
                lm_head: borrow(inputs.lm_head, "lm_head")?,
                logits,
                sequence_log_probs: copied(inputs.sequence_log_probs, "sequence_log_probs")?,
                target_positions: copied(inputs.target_positions, "target_positions")?,
                target_ids: copied(inputs.target_ids, "target_ids")?,
                target_sequences: copied(inputs.target_sequences, "target_sequences")?,
                num_sequences,
                reference_log_probs: copied(inputs.reference_log_probs, "reference_log_probs")?,
                prompt_offsets: copied(inputs.prompt_offsets, "prompt_offsets")?,
                sequence_index: copied(inputs.sequence_index, "sequence_index")?,
                pi_target: copied(inputs.pi_target, "pi_target")?,
                target_mask: copied(inputs.target_mask, "target_mask")?,
                lambda: copied(inputs.lambda, "lambda")?,
                stream: inputs.cuda_stream,
                _current: current,
            })
        }
    }

    fn as_core(&self) -> LossInputs<'_> {
        LossInputs {
            hidden: self.hidden.as_ref(),
            lm_head: self.lm_head.as_ref(),
            logits: self.logits.as_ref(),
            sequence_log_probs: self.sequence_log_probs.as_ref(),
            target_positions: self.target_positions.as_ref(),
            target_ids: self.target_ids.as_ref(),
            target_sequences: self.target_sequences.as_ref(),
            num_sequences: self.num_sequences,
            reference_log_probs: self.reference_log_probs.as_ref(),
            prompt_offsets: self.prompt_offsets.as_ref(),
            sequence_index: self.sequence_index.as_ref(),
            pi_target: self.pi_target.as_ref(),
            target_mask: self.target_mask.as_ref(),
            lambda: self.lambda.as_ref(),
        }
    }
}

/// Makes the caller's stream the current one, where there is one, before any work is queued.
///
/// # Safety
/// `stream` is NULL or as [`abi::LossInputs::cuda_stream`] demands.
unsafe fn enter(stream: *mut c_void, scored: Option<&Tensor>) -> Outcome<Option<CurrentStream>> {
    let Some(scored) = scored.filter(|_| !stream.is_null()) else { return Ok(None) };
    let Device::Cuda(device) = scored.device() else {
        return Err(Failure::argument(
            "`cuda_stream` is set, but the tensors to score are not on a CUDA device: leave it NULL",
        ));
    };
    // SAFETY: the caller's promise.
    let entered = unsafe { CurrentStream::enter(device, stream) };
    entered.map(Some).map_err(|problem| Failure::argument(format!("`cuda_stream`: {problem}")))
}

const ALL_WANTS: u32 = abi::WANTS_HIDDEN | abi::WANTS_LM_HEAD | abi::WANTS_LOGITS | abi::WANTS_SEQUENCE_LOG_PROBS;

/// Reads the options.
///
/// # Safety
/// `options` is NULL or valid.
unsafe fn loss_options(options: *const abi::LossOptions) -> Outcome<LossOptions> {
    // SAFETY: the caller's promise.
    let options = unsafe { growth::read(options, "options") }?;
    let objective = concept(options.objective, "objective")?;
    let reduction = concept(options.reduction, "reduction")?;
    if options.wants & !ALL_WANTS != 0 {
        return Err(Failure::argument(format!("`wants` is {:#x}, which has unknown bits", options.wants)));
    }
    if !options.normalizer.is_finite() || options.normalizer < 0.0 {
        return Err(Failure::argument(format!(
            "`normalizer` is {}, expected a number of at least 0",
            options.normalizer
        )));
    }
    let wants = |bit| options.wants & bit != 0;
    Ok(LossOptions {
        objective,
        reduction,
        beta: options.beta,
        normalizer: (options.normalizer > 0.0).then_some(options.normalizer),
        logits_budget_bytes: match usize::try_from(options.logits_budget_bytes) {
            Ok(0) => DEFAULT_LOGITS_BUDGET_BYTES,
            Ok(bytes) => bytes,
            Err(_) => usize::MAX,
        },
        paper_exact: flag(options.paper_exact, "paper_exact")?,
        wants: Wants {
            hidden: wants(abi::WANTS_HIDDEN),
            lm_head: wants(abi::WANTS_LM_HEAD),
            logits: wants(abi::WANTS_LOGITS),
            sequence_log_probs: wants(abi::WANTS_SEQUENCE_LOG_PROBS),
        },
    })
}

/// See [`abi::Api::log_probs`].
pub unsafe extern "C" fn log_probs(
    inputs: *const abi::LossInputs,
    options: *const abi::LossOptions,
    token_log_probs: *mut abi::Tensor,
    sequence_log_probs: *mut abi::Tensor,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let inputs = Inputs::read(inputs)?;
        let options = loss_options(options)?;
        let (token, sequence) = lambda_dpo_core::log_probs(&inputs.as_core(), &options)?;
        let (token, sequence) = (export_option(token.as_ref())?, export(&sequence)?);
        let token_out = reference_mut(token_log_probs, "token_log_probs")?;
        write(sequence_log_probs, sequence.as_raw(), "sequence_log_probs")?;
        sequence.into_raw();
        *token_out = raw_option(token);
        Ok(())
    })
}

/// What a forward leaves for its backward.
struct Kept {
    context: LossContext,
    /// The address of its `cuda_stream`: memory that was used on a stream is given again in the order of that stream.
    stream: usize,
}

/// It lives in the handle until the one backward takes it.
type ContextHandle = Handle<Mutex<Option<Kept>>>;

/// See [`abi::Api::loss_forward`].
pub unsafe extern "C" fn loss_forward(
    inputs: *const abi::LossInputs,
    options: *const abi::LossOptions,
    outputs: *mut abi::LossOutputs,
    context: *mut *mut abi::LossContext,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let inputs = Inputs::read(inputs)?;
        let options = loss_options(options)?;
        let outputs = Output::new(outputs, "outputs")?;
        if options.wants != Wants::default() && context.is_null() {
            return Err(Failure::argument("argument `context` is NULL though `wants` asks for gradients"));
        }
        let (result, kept) = lambda_dpo_core::loss_forward(&inputs.as_core(), &options)?;
        let loss = export(&result.loss)?;
        let token_log_probs = export_option(result.token_log_probs.as_ref())?;
        let sequence_log_probs = export(&result.sequence_log_probs)?;
        let listwise = result.listwise.as_ref();
        macro_rules! listwise {
            ($($field:ident),*) => {
                $(let $field = export_option(listwise.map(|listwise| &listwise.$field))?;)*
                if !context.is_null() {
                    match kept {
                        Some(kept) => {
                            let kept = Kept { context: kept, stream: inputs.stream.addr() };
                            ContextHandle::give(Mutex::new(Some(kept)), context, "context")?;
                        }
                        None => write(context, std::ptr::null_mut(), "context")?,
                    }
                }
                $(outputs.put_tensor(offset_of!(abi::LossOutputs, $field), $field);)*
            };
        }
        listwise!(rewards, prompt_losses, dimension_losses, dimension_mask, accuracies, dimension_accuracies, margins);
        outputs.put_tensor(offset_of!(abi::LossOutputs, loss), Some(loss));
        outputs.put_tensor(offset_of!(abi::LossOutputs, token_log_probs), token_log_probs);
        outputs.put_tensor(offset_of!(abi::LossOutputs, sequence_log_probs), Some(sequence_log_probs));
        Ok(())
    })
}

/// Takes what a forward has kept, for its one backward on the same stream.
fn take(kept: &Mutex<Option<Kept>>, stream: usize) -> Outcome<LossContext> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.as_ref() {
        Some(of_forward) if of_forward.stream != stream => Err(Failure::argument(format!(
            "`cuda_stream` is {stream:#x}, but it was {:#x} in the forward: give the backward the same",
            of_forward.stream
        ))),
        _ => kept.take().map(|kept| kept.context).ok_or_else(|| {
            Failure::new(abi::STATUS_POISONED, "`context` has served its one backward; run the forward again")
        }),
    }
}

/// See [`abi::Api::loss_backward`].
pub unsafe extern "C" fn loss_backward(
    context: *mut abi::LossContext,
    inputs: *const abi::LossInputs,
    grad_output: f64,
    gradients: *mut abi::LossGradients,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let gradients = Output::new(gradients, "gradients")?;
        let inputs = Inputs::read(inputs)?;
        let taken = ContextHandle::with(context, "context", |context| take(context, inputs.stream.addr()))?;
        let result = taken.backward(&inputs.as_core(), grad_output)?;
        let hidden = export_option(result.hidden.as_ref())?;
        let lm_head = export_option(result.lm_head.as_ref())?;
        let logits = export_option(result.logits.as_ref())?;
        let sequence_log_probs = export_option(result.sequence_log_probs.as_ref())?;
        gradients.put_tensor(offset_of!(abi::LossGradients, hidden), hidden);
        gradients.put_tensor(offset_of!(abi::LossGradients, lm_head), lm_head);
        gradients.put_tensor(offset_of!(abi::LossGradients, logits), logits);
        gradients.put_tensor(offset_of!(abi::LossGradients, sequence_log_probs), sequence_log_probs);
        Ok(())
    })
}

/// See [`abi::Api::loss_context_free`].
pub unsafe extern "C" fn loss_context_free(context: *mut abi::LossContext) {
    ContextHandle::free(context);
}
