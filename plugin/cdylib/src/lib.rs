//! liblambda_dpo: the core behind the C ABI of `lambda-dpo-abi`.
//!
//! # Invariants
//!
//! - Exports one symbol, [`lambda_dpo_get_api`].
//! - Every function of the table runs inside `guard::call`: no panic leaves it, and outputs are written last and only
//!   on success.
//! - The plugin's only unsafe code besides one call in `lambda-dpo-products` is here, and it only translates: pointers to
//!   references, DLPack to tensors, handles to values.

mod failure;
mod arguments;
mod concepts;
mod growth;
mod guard;
mod handle;
mod tensors;
mod arrow;

mod convert;
mod tokenize;
mod decode_stream;
mod lambda;
mod collate;
mod dataset;
mod loss;

use std::mem::offset_of;

use lambda_dpo_abi as abi;

use failure::Failure;
use guard::call;

/// The table of this build.
static API: abi::Api = abi::Api {
    struct_size: size_of::<abi::Api>(),
    major: abi::ABI_MAJOR,
    minor: abi::ABI_MINOR,
    build_info,
    bytes_free: tensors::bytes_free,
    convert_record: convert::convert_record,
    reader_open: convert::reader_open,
    reader_open_arrow: convert::reader_open_arrow,
    reader_to_arrow: convert::reader_to_arrow,
    reader_next: convert::reader_next,
    reader_report: convert::reader_report,
    reader_free: convert::reader_free,
    tokenizer_open: tokenize::tokenizer_open,
    tokenizer_info: tokenize::tokenizer_info,
    tokenizer_render: tokenize::tokenizer_render,
    tokenizer_encode: tokenize::tokenizer_encode,
    tokenizer_decode: tokenize::tokenizer_decode,
    tokenizer_free: tokenize::tokenizer_free,
    decode_stream_new: decode_stream::decode_stream_new,
    decode_stream_step: decode_stream::decode_stream_step,
    decode_stream_finish: decode_stream::decode_stream_finish,
    decode_stream_free: decode_stream::decode_stream_free,
    tokenize: tokenize::tokenize,
    tokenized_sample_new: tokenize::tokenized_sample_new,
    tokenized_sample_tokens: tokenize::tokenized_sample_tokens,
    tokenized_sample_free: tokenize::tokenized_sample_free,
    collate: collate::collate,
    batch_free: collate::batch_free,
    dataset_open: dataset::dataset_open,
    dataset_open_arrow: dataset::dataset_open_arrow,
    dataset_len: dataset::dataset_len,
    dataset_info: dataset::dataset_info,
    dataset_samples: dataset::dataset_samples,
    dataset_batch: dataset::dataset_batch,
    dataset_prefetch: dataset::dataset_prefetch,
    dataset_free: dataset::dataset_free,
    schedule_new: lambda::schedule_new,
    schedule_draw_instance: lambda::schedule_draw_instance,
    schedule_draw_step: lambda::schedule_draw_step,
    schedule_free: lambda::schedule_free,
    renormalize_lambda: lambda::renormalize_lambda,
    log_probs: loss::log_probs,
    loss_forward: loss::loss_forward,
    loss_backward: loss::loss_backward,
    loss_context_free: loss::loss_context_free,
};

/// The only exported symbol; see [`abi::GetApi`].
///
/// # Safety
/// `api` is NULL or writable; `error` as in [`abi::Error`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lambda_dpo_get_api(
    major: u32,
    minor: u32,
    api: *mut *const abi::Api,
    error: *mut abi::Error,
) -> abi::Status {
    call(error, || {
        if major != abi::ABI_MAJOR || minor > abi::ABI_MINOR {
            return Err(Failure::new(
                abi::STATUS_UNSUPPORTED,
                format!(
                    "the caller asks for plugin ABI {major}.{minor}, this library serves {}.0 to {}.{}; use a library of \
                     the caller's version",
                    abi::ABI_MAJOR,
                    abi::ABI_MAJOR,
                    abi::ABI_MINOR
                ),
            ));
        }
        // SAFETY: the caller's promise.
        unsafe { arguments::write(api, &raw const API, "api") }
    })
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

unsafe extern "C" fn build_info(info: *mut abi::BuildInfo, error: *mut abi::Error) -> abi::Status {
    call(error, || {
        // SAFETY: the caller's promise.
        unsafe {
            let info = growth::Output::new(info, "info")?;
            info.put(offset_of!(abi::BuildInfo, version), arguments::str_of(VERSION));
            info.put(offset_of!(abi::BuildInfo, torch_version), arguments::str_of(abi::tensor::TORCH_VERSION));
        }
        Ok(())
    })
}
