//! An impossible `struct_size` is refused with the name of the argument, for every struct of every function.

use std::ptr::null_mut;

use lambda_dpo_abi as abi;
use lambda_dpo_tests::table::{self, PairLoss, api, checked};
use tch::Device;

use crate::misuse::{Given, RECORD};

/// Tries sizes below those of revision 1.0, and sizes that no struct could have.
fn refuses<T>(function: &str, name: &str, value: &mut T, mut call: impl FnMut(*mut T, *mut abi::Error) -> abi::Status) {
    let size = size_of::<T>();
    let pointer = &raw mut *value;
    for wrong in [0, 1, 8, size - 1, 4097, usize::MAX] {
        // SAFETY: each of these structs begins with its size, and nothing else is read if the call is refused.
        unsafe { pointer.cast::<usize>().write(wrong) };
        let (status, message) = checked(|error| call(pointer, error)).expect_err(function);
        let expected = format!(
            "argument `{name}` has struct_size {wrong}, but the struct has at least {size} bytes (this version's has {size}): \
             set it to the struct's sizeof"
        );
        assert_eq!((status, message), (abi::STATUS_INVALID_ARGUMENT, expected), "{function}");
    }
    // SAFETY: as above.
    unsafe { pointer.cast::<usize>().write(size) };
}

#[test]
fn of_options() {
    let (given, api) = (Given::new(), api());
    let tokenizer = given.tokenizer.raw();
    let (mut bytes, mut reader, mut sample, mut dataset, mut schedule) =
        (table::no_bytes(), null_mut(), null_mut(), null_mut(), null_mut());
    let mut convert = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    let mut tokenize = table::tokenize_options();
    // SAFETY: every pointer is valid; the wrong sizes are what is tested.
    unsafe {
        refuses("convert_record", "options", &mut convert, |options, e| {
            (api.convert_record)(table::text(RECORD), 0, options, &mut bytes, e)
        });
        refuses("reader_open", "options", &mut convert, |options, e| {
            (api.reader_open)(&given.path(), 1, options, &mut reader, e)
        });
        refuses("tokenize", "options", &mut tokenize, |options, e| {
            (api.tokenize)(tokenizer, table::text(&given.sample), options, &mut sample, e)
        });
        let mut options = given.dataset_options();
        refuses("dataset_open", "options", &mut options, |options, e| {
            (api.dataset_open)(&given.path(), 1, tokenizer, options, &mut dataset, e)
        });
        refuses("dataset_open", "options", &mut convert, |convert, e| {
            let options = abi::DatasetOptions { convert, ..given.dataset_options() };
            (api.dataset_open)(&given.path(), 1, tokenizer, &options, &mut dataset, e)
        });
        refuses("dataset_open", "options", &mut tokenize, |tokenize, e| {
            let options = abi::DatasetOptions { tokenize, ..given.dataset_options() };
            (api.dataset_open)(&given.path(), 1, tokenizer, &options, &mut dataset, e)
        });
        let mut options = abi::ScheduleOptions { kind: abi::SCHEDULE_GAUSSIAN, num_dimensions: 2, ..table::sized() };
        refuses("schedule_new", "options", &mut options, |options, e| (api.schedule_new)(options, &mut schedule, e));
    }
    assert!(bytes.data.is_null() && reader.is_null() && sample.is_null() && dataset.is_null() && schedule.is_null());
}

#[test]
fn of_batches_and_build_info() {
    let (given, api) = (Given::new(), api());
    let sample = given.tokenized.raw().cast_const();
    // SAFETY: as above.
    unsafe {
        let (mut collate, mut batch) = (table::collate_options(abi::LAYOUT_ROWS), table::sized::<abi::Batch>());
        refuses("collate", "options", &mut collate, |options, e| {
            let mut batch = table::sized::<abi::Batch>();
            (api.collate)(&sample, 1, &1.0, options, &mut batch, e)
        });
        refuses("collate", "batch", &mut batch, |batch, e| (api.collate)(&sample, 1, &1.0, &given.collate, batch, e));
        let mut dataset = null_mut();
        checked(|e| {
            (api.dataset_open)(&given.path(), 1, given.tokenizer.raw(), &given.dataset_options(), &mut dataset, e)
        })
        .unwrap();
        let dataset = table::Handle::new(dataset, api.dataset_free);
        refuses("dataset_batch", "batch", &mut batch, |batch, e| {
            (api.dataset_batch)(dataset.raw(), &0, 1, &1.0, &given.collate, batch, e)
        });
        refuses("dataset_batch", "options", &mut collate, |options, e| {
            let mut batch = table::sized::<abi::Batch>();
            (api.dataset_batch)(dataset.raw(), &0, 1, &1.0, options, &mut batch, e)
        });
        refuses("dataset_prefetch", "options", &mut collate, |options, e| {
            (api.dataset_prefetch)(dataset.raw(), &0, 1, &1.0, options, e)
        });
        assert!(batch.input_ids.is_null());
        // Freeing a batch whose size is 0 does nothing.
        batch.struct_size = 0;
        (api.batch_free)(&mut batch);
        refuses("build_info", "info", &mut table::sized::<abi::BuildInfo>(), |info, e| (api.build_info)(info, e));
    }
}

#[test]
fn of_losses() {
    let api = api();
    let loss = PairLoss::new(Device::Cpu);
    // SAFETY: as above.
    unsafe {
        let (mut inputs, mut options) = (loss.inputs(), PairLoss::options());
        let (mut token, mut sequence, mut context) = (null_mut(), null_mut(), null_mut());
        let (mut outputs, mut gradients) = (table::sized::<abi::LossOutputs>(), table::sized::<abi::LossGradients>());
        refuses("log_probs", "inputs", &mut inputs, |inputs, e| {
            (api.log_probs)(inputs, &options, &mut token, &mut sequence, e)
        });
        refuses("loss_forward", "inputs", &mut inputs, |inputs, e| {
            (api.loss_forward)(inputs, &options, &mut outputs, &mut context, e)
        });
        refuses("log_probs", "options", &mut options, |options, e| {
            (api.log_probs)(&inputs, options, &mut token, &mut sequence, e)
        });
        refuses("loss_forward", "options", &mut options, |options, e| {
            (api.loss_forward)(&inputs, options, &mut outputs, &mut context, e)
        });
        refuses("loss_forward", "outputs", &mut outputs, |outputs, e| {
            (api.loss_forward)(&inputs, &options, outputs, &mut context, e)
        });
        assert!(token.is_null() && sequence.is_null() && context.is_null() && outputs.loss.is_null());
        checked(|e| (api.loss_forward)(&inputs, &options, &mut outputs, &mut context, e)).unwrap();
        table::free_outputs(outputs);
        refuses("loss_backward", "inputs", &mut inputs, |inputs, e| {
            (api.loss_backward)(context, inputs, 1.0, &mut gradients, e)
        });
        refuses("loss_backward", "gradients", &mut gradients, |gradients, e| {
            (api.loss_backward)(context, &inputs, 1.0, gradients, e)
        });
        // None of these calls has used up the context.
        checked(|e| (api.loss_backward)(context, &inputs, 1.0, &mut gradients, e)).unwrap();
        abi::tensor::free_tensor(gradients.sequence_log_probs);
        (api.loss_context_free)(context);
    }
}

/// An error struct that is too short is not written to; the status is returned as usual.
#[test]
fn of_the_error_itself() {
    let mut buffer = [0xAA_u8; 16];
    for struct_size in [0, 8, size_of::<abi::Error>() - 1] {
        let mut error = abi::Error { struct_size, buffer: buffer.as_mut_ptr(), capacity: buffer.len(), len: 77 };
        // SAFETY: all pointers are valid.
        let status = unsafe { (api().build_info)(null_mut(), &mut error) };
        assert_eq!((status, error.len), (abi::STATUS_INVALID_ARGUMENT, 77));
    }
    assert_eq!(buffer, [0xAA; 16]);
}
