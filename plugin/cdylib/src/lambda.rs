//! λ schedules, and λ'.

use lambda_dpo_abi as abi;
use lambda_dpo_core::{Schedule, ScheduleKind, lambda::ScheduleOptions};

use crate::arguments::slice;
use crate::failure::{Failure, Outcome};
use crate::growth;
use crate::guard::call;
use crate::handle::Handle;
use crate::tensors::{borrow, give_tensor};

/// A schedule with M, the number of values that a draw writes.
type ScheduleHandle = Handle<(Schedule, usize)>;

/// Reads the kind of schedule.
///
/// # Safety
/// `options` is valid, with the arrays it names.
unsafe fn schedule_kind(options: &abi::ScheduleOptions) -> Outcome<ScheduleKind> {
    let m = options.num_dimensions;
    // SAFETY: the caller's promise.
    let weights = |rows: usize| unsafe {
        let len = rows.checked_mul(m).ok_or_else(|| Failure::argument(format!("`num_rows` {rows} is impossible")))?;
        slice(options.weights, len, "weights")
    };
    Ok(match options.kind {
        abi::SCHEDULE_UNIFORM_NORMALIZED => ScheduleKind::UniformNormalized,
        abi::SCHEDULE_DIRICHLET => ScheduleKind::Dirichlet { alpha: options.alpha },
        abi::SCHEDULE_GAUSSIAN => ScheduleKind::Gaussian,
        abi::SCHEDULE_GAUSSIAN_ABS => ScheduleKind::GaussianAbs,
        abi::SCHEDULE_UNIMODAL => ScheduleKind::Unimodal { dimension: options.dimension as usize },
        abi::SCHEDULE_UNIMODAL_CYCLE => ScheduleKind::UnimodalCycle,
        abi::SCHEDULE_FIXED => ScheduleKind::Fixed { weights: weights(1)?.to_vec() },
        abi::SCHEDULE_TABLE => {
            let rows = weights(options.num_rows)?;
            // SAFETY: the caller's promise.
            let probabilities = unsafe { slice(options.probabilities, options.num_rows, "probabilities") }?;
            let rows = rows.chunks(m.max(1)).map(<[f64]>::to_vec).zip(probabilities.iter().copied()).collect();
            ScheduleKind::Table { rows }
        }
        other => return Err(Failure::argument(format!("`kind` of the λ schedule is {other}, expected 0 to 7"))),
    })
}

/// See [`abi::Api::schedule_new`].
pub unsafe extern "C" fn schedule_new(
    options: *const abi::ScheduleOptions,
    schedule: *mut *mut abi::Schedule,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let options = growth::read(options, "options")?;
        let num_dimensions = options.num_dimensions;
        let made = Schedule::new(ScheduleOptions { kind: schedule_kind(&options)?, num_dimensions })?;
        ScheduleHandle::give((made, num_dimensions), schedule, "schedule")
    })
}

/// Draws with `draw` and writes the M values to `lambda`.
///
/// # Safety
/// `schedule` is NULL or alive; `lambda` is NULL or M values long.
unsafe fn give_draw(
    schedule: *const abi::Schedule,
    lambda: *mut f64,
    error: *mut abi::Error,
    draw: impl FnOnce(&Schedule) -> Vec<f64>,
) -> abi::Status {
    // SAFETY: the caller's promise.
    call(error, || unsafe {
        ScheduleHandle::with(schedule, "schedule", |(schedule, num_dimensions)| {
            if lambda.is_null() {
                return Err(Failure::argument("argument `lambda` is NULL"));
            }
            let drawn = draw(schedule);
            debug_assert_eq!(drawn.len(), *num_dimensions);
            std::ptr::copy_nonoverlapping(drawn.as_ptr(), lambda, drawn.len());
            Ok(())
        })
    })
}

/// See [`abi::Api::schedule_draw_instance`].
pub unsafe extern "C" fn schedule_draw_instance(
    schedule: *const abi::Schedule,
    seed: u64,
    epoch: u64,
    record_index: u64,
    lambda: *mut f64,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    unsafe { give_draw(schedule, lambda, error, |schedule| schedule.draw_instance(seed, epoch, record_index)) }
}

/// See [`abi::Api::schedule_draw_step`].
pub unsafe extern "C" fn schedule_draw_step(
    schedule: *const abi::Schedule,
    seed: u64,
    global_step: u64,
    lambda: *mut f64,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    unsafe { give_draw(schedule, lambda, error, |schedule| schedule.draw_step(seed, global_step)) }
}

/// See [`abi::Api::schedule_free`].
pub unsafe extern "C" fn schedule_free(schedule: *mut abi::Schedule) {
    ScheduleHandle::free(schedule);
}

/// See [`abi::Api::renormalize_lambda`].
pub unsafe extern "C" fn renormalize_lambda(
    prompt_offsets: abi::Tensor,
    target_mask: abi::Tensor,
    lambda: abi::Tensor,
    renormalized: *mut abi::Tensor,
    error: *mut abi::Error,
) -> abi::Status {
    // SAFETY: the caller keeps the table's rules.
    call(error, || unsafe {
        let given =
            |raw, name| borrow(raw, name)?.ok_or_else(|| Failure::argument(format!("argument `{name}` is NULL")));
        let (offsets, mask) = (given(prompt_offsets, "prompt_offsets")?, given(target_mask, "target_mask")?);
        let result = lambda_dpo_core::renormalize_lambda(&offsets, &mask, &given(lambda, "lambda")?)?;
        give_tensor(&result, renormalized, "renormalized")
    })
}
