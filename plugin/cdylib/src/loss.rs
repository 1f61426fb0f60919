//! Stages 6 and 7: log-probs and loss on borrowed tensors.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::{CurrentStream, Exported};
use lambda_dpo_core::{DEFAULT_LOGITS_BUDGET_BYTES, LossContext, LossInputs, LossOptions, Wants};
use tch::{Device, Tensor};

use crate::arguments::{flag, reference_mut, write};
use crate::concepts::concept;
use crate::failure::{Failure, Outcome};
use crate::growth::{self, Output};
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::{borrow, copied, copied_from_cpu, export, export_option, exported};

/// Declares [`Inputs`] from the names of its tensors, which are those of the ABI and of the core: first the large ones,
/// which are views that must not outlive the call, then the small ones, which are copied: from any device, and from
/// main memory only.
macro_rules! inputs {
    ($($view:ident),+; $($copy:ident),+; $($on_cpu:ident),+) => {
        /// The inputs of one call as tensors.
        struct Inputs {
            $($view: Option<Tensor>,)+
            $($copy: Option<Tensor>,)+
            $($on_cpu: Option<Tensor>,)+
            num_sequences: i64,
            stream: *mut c_void,
            /// Left last: dropping the fields before it may queue work.
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
                    let current = enter(&inputs)?;
                    Ok(Self {
                        $($view: borrow(inputs.$view, stringify!($view))?,)+
                        $($copy: copied(inputs.$copy, stringify!($copy))?,)+
                        $($on_cpu: copied_from_cpu(inputs.$on_cpu, stringify!($on_cpu))?,)+
                        num_sequences,
                        stream: inputs.cuda_stream,
                        _current: current,
                    })
                }
            }

            fn as_core(&self) -> LossInputs<'_> {
                LossInputs {
                    $($view: self.$view.as_ref(),)+
                    $($copy: self.$copy.as_ref(),)+
                    $($on_cpu: self.$on_cpu.as_ref(),)+
                    num_sequences: self.num_sequences,
                }
            }
        }
    };
}

inputs! {
    hidden, lm_head, logits;
    sequence_log_probs;
    target_positions, target_ids, target_sequences, sequence_num_tokens, reference_log_probs, prompt_offsets,
    sequence_index, pi_target, target_mask, ranks, lambda
}

/// Makes the caller's stream the current one, if there is one, before any work is queued.
///
/// # Safety
/// `inputs` is valid, with its tensors and its stream.
unsafe fn enter(inputs: &abi::LossInputs) -> Outcome<Option<CurrentStream>> {
    if inputs.cuda_stream.is_null() {
        return Ok(None);
    }
    let scored =
        [(inputs.hidden, "hidden"), (inputs.logits, "logits"), (inputs.sequence_log_probs, "sequence_log_probs")];
    let Some((raw, name)) = scored.into_iter().find(|(raw, _)| !raw.is_null()) else { return Ok(None) };
    // SAFETY: the caller's promise.
    let device = unsafe { borrow(raw, name) }?.map(|tensor| tensor.device());
    let Some(Device::Cuda(device)) = device else {
        return Err(Failure::argument(
            "`cuda_stream` is set, but the tensors to score are not on a CUDA device: leave it NULL",
        ));
    };
    // SAFETY: the caller's promise.
    let entered = unsafe { CurrentStream::enter(device, inputs.cuda_stream) };
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
        label_smoothing: options.label_smoothing,
        simpo_gamma: options.simpo_gamma,
        sft_weight: options.sft_weight,
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
        *token_out = token.map_or(std::ptr::null_mut(), Exported::into_raw);
        Ok(())
    })
}

/// State that a forward keeps for its backward.
struct Kept {
    context: LossContext,
    /// Address of its `cuda_stream`: memory that was used on a stream is reused in the order of that stream.
    stream: usize,
}

/// The backward takes the state out of the handle.
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
            return Err(Failure::argument("argument `context` is NULL, but `wants` asks for gradients"));
        }
        let (result, kept) = lambda_dpo_core::loss_forward(&inputs.as_core(), &options)?;
        let always = exported!(abi::LossOutputs, Some(&result) => loss, token_log_probs, sequence_log_probs);
        let preferences = exported!(
            abi::LossOutputs,
            result.preferences.as_ref() => rewards, prompt_losses, dimension_losses, dimension_mask, accuracies,
            dimension_accuracies, margins, sft_losses
        );
        match kept {
            Some(kept) => {
                let kept = Kept { context: kept, stream: inputs.stream.addr() };
                ContextHandle::give(Mutex::new(Some(kept)), context, "context")?;
            }
            None if context.is_null() => {}
            None => write(context, std::ptr::null_mut(), "context")?,
        }
        outputs.put_tensors(always);
        outputs.put_tensors(preferences);
        Ok(())
    })
}

/// Takes the state of a forward out, for its backward with the same inputs on the same stream. A failed check leaves it
/// in.
fn take(kept: &Mutex<Option<Kept>>, inputs: &Inputs) -> Outcome<LossContext> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let stream = inputs.stream.addr();
    if let Some(of_forward) = kept.as_ref() {
        if of_forward.stream != stream {
            return Err(Failure::argument(format!(
                "`cuda_stream` is {stream:#x}, but it was {:#x} in the forward: pass the same to the backward",
                of_forward.stream
            )));
        }
        of_forward.context.check(&inputs.as_core())?;
    }
    kept.take()
        .map(|kept| kept.context)
        .ok_or_else(|| Failure::new(abi::STATUS_POISONED, "`context` has served its backward; run the forward again"))
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
        let taken = ContextHandle::with(context, "context", |context| take(context, &inputs))?;
        let result = taken.backward(&inputs.as_core(), grad_output)?;
        let exported = exported!(abi::LossGradients, Some(&result) => hidden, lm_head, logits, sequence_log_probs);
        gradients.put_tensors(exported);
        Ok(())
    })
}

/// See [`abi::Api::loss_context_free`].
pub unsafe extern "C" fn loss_context_free(context: *mut abi::LossContext) {
    ContextHandle::free(context);
}
