//! Stage 4: batches as DLPack tensors.

use std::mem::offset_of;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::free_tensor;
use lambda_dpo_core::collate::DEFAULT_PAD_TO_MULTIPLE_OF;
use lambda_dpo_core::{Batch, CollateOptions, TokenizedSample};

use crate::arguments::slice;
use crate::concepts::concept;
use crate::failure::{Failure, Outcome};
use crate::growth::{self, Output};
use crate::guard::{call, release};
use crate::tensors::exported;
use crate::tokenize::TokenizedHandle;

/// Reads the options.
///
/// # Safety
/// `options` is NULL or valid.
pub unsafe fn collate_options(options: *const abi::CollateOptions) -> Outcome<CollateOptions> {
    // SAFETY: the caller's promise.
    let options = unsafe { growth::read(options, "options") }?;
    let layout = concept(options.layout, "layout")?;
    let tokens = |value: u64, name: &str| {
        usize::try_from(value)
            .map_err(|_| Failure::argument(format!("`{name}` is {value}, more than this machine can count")))
    };
    let max_tokens = tokens(options.max_tokens, "max_tokens")?;
    let pad_to_multiple_of = tokens(options.pad_to_multiple_of, "pad_to_multiple_of")?;
    Ok(CollateOptions {
        layout,
        max_tokens: (max_tokens > 0).then_some(max_tokens),
        pad_to_multiple_of: if pad_to_multiple_of == 0 { DEFAULT_PAD_TO_MULTIPLE_OF } else { pad_to_multiple_of },
        pad_token_id: options.pad_token_id,
    })
}

/// Calls a macro with the names of a batch's tensors.
macro_rules! for_each_tensor {
    ($run:ident) => {
        $run!(
            input_ids,
            attention_mask,
            position_ids,
            labels,
            prompt_ids,
            sequence_ids,
            target_positions,
            target_ids,
            target_sequences,
            sequence_num_tokens,
            sequence_prompts,
            sequence_responses,
            prompt_offsets,
            sequence_index,
            pi_target,
            target_mask,
            ranks,
            lambda,
            record_indices,
        )
    };
}

/// Writes all of a batch, or nothing.
///
/// # Safety
/// `out` is NULL or valid.
pub unsafe fn give_batch(batch: &Batch, out: *mut abi::Batch) -> Outcome {
    // SAFETY: the caller's promise; the offsets are those of tensors.
    unsafe {
        let out = Output::new(out, "batch")?;
        macro_rules! give {
            ($($field:ident),* $(,)?) => {
                out.put_tensors(exported!(abi::Batch, Some(batch) => $($field),*))
            };
        }
        for_each_tensor!(give);
        out.put(offset_of!(abi::Batch, num_contributing), batch.num_contributing);
        Ok(())
    }
}

/// See [`abi::Api::collate`].
pub unsafe extern "C" fn collate(
    samples: *const *const abi::TokenizedSample,
    num_samples: usize,
    lambda: *const f64,
    options: *const abi::CollateOptions,
    batch: *mut abi::Batch,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let options = collate_options(options)?;
        let mut parts: Vec<TokenizedSample> = Vec::new();
        for (i, sample) in slice(samples, num_samples, "samples")?.iter().enumerate() {
            TokenizedHandle::with(*sample, &format!("samples[{i}]"), |sample| {
                parts.extend(sample.iter().cloned());
                Ok(())
            })?;
        }
        let num_dimensions = parts.first().map_or(0, |part| part.pi_target.nrows());
        let lambda = slice(lambda, parts.len() * num_dimensions, "lambda")?;
        let parts: Vec<&TokenizedSample> = parts.iter().collect();
        give_batch(&lambda_dpo_core::collate(&parts, lambda, &options)?, batch)
    })
}

/// See [`abi::Api::batch_free`].
pub unsafe extern "C" fn batch_free(batch: *mut abi::Batch) {
    // SAFETY: NULL or a batch whose non-NULL tensors are owned by the caller.
    release(|| unsafe {
        let Ok(batch) = Output::new(batch, "batch") else { return };
        macro_rules! free {
            ($($field:ident),* $(,)?) => {
                $(free_tensor(batch.take_tensor(offset_of!(abi::Batch, $field)));)*
            };
        }
        for_each_tensor!(free);
    });
}
