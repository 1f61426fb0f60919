//! λ schedules.

use std::ptr::NonNull;

use lambda_dpo_abi as abi;

use super::call::{answer, call, handle};
use super::error::PluginError;
use super::load::Plugin;

/// A λ schedule; see the ABI's `SCHEDULE_*`.
#[derive(Clone, Debug, PartialEq)]
pub enum ScheduleKind {
    /// u / Σ u, u uniform.
    UniformNormalized,
    /// Dir(α·1).
    Dirichlet {
        /// α.
        alpha: f64,
    },
    /// softmax(z), z normal.
    Gaussian,
    /// |z| / Σ |z|, z normal.
    GaussianAbs,
    /// One-hot at a fixed dimension.
    Unimodal {
        /// Index of the dimension.
        dimension: usize,
    },
    /// One-hot, cycling through the dimensions.
    UnimodalCycle,
    /// A constant λ.
    Fixed {
        /// λ `[M]`.
        weights: Vec<f64>,
    },
    /// A row of a table, drawn by probability.
    Table {
        /// λ `[M]` and the sampling weight of each row.
        rows: Vec<(Vec<f64>, f64)>,
    },
}

/// A schedule over M dimensions.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// The distribution of λ.
    pub kind: ScheduleKind,
    /// M.
    pub num_dimensions: usize,
}

handle!(
    /// Draws λ.
    Schedule, abi::Schedule, schedule_free, num_dimensions: usize
);

// SAFETY: the ABI allows any number of threads to use a schedule at once.
unsafe impl Send for Schedule {}
// SAFETY: as above.
unsafe impl Sync for Schedule {}

impl Plugin {
    /// Makes a λ schedule.
    ///
    /// # Errors
    ///
    /// Returns an error if weights do not sum to 1, if α is not positive, or if a dimension is out of range.
    pub fn schedule(&self, options: &ScheduleOptions) -> Result<Schedule, PluginError> {
        let m = options.num_dimensions;
        let (mut weights, mut probabilities, mut alpha, mut dimension) = (Vec::new(), Vec::new(), 1.0, 0);
        let kind = match &options.kind {
            ScheduleKind::UniformNormalized => abi::SCHEDULE_UNIFORM_NORMALIZED,
            ScheduleKind::Dirichlet { alpha: value } => {
                alpha = *value;
                abi::SCHEDULE_DIRICHLET
            }
            ScheduleKind::Gaussian => abi::SCHEDULE_GAUSSIAN,
            ScheduleKind::GaussianAbs => abi::SCHEDULE_GAUSSIAN_ABS,
            ScheduleKind::Unimodal { dimension: index } => {
                dimension = u32::try_from(*index).unwrap_or(u32::MAX);
                abi::SCHEDULE_UNIMODAL
            }
            ScheduleKind::UnimodalCycle => abi::SCHEDULE_UNIMODAL_CYCLE,
            ScheduleKind::Fixed { weights: row } => {
                check_row(row, m)?;
                weights.extend_from_slice(row);
                abi::SCHEDULE_FIXED
            }
            ScheduleKind::Table { rows } => {
                for (row, probability) in rows {
                    check_row(row, m)?;
                    weights.extend_from_slice(row);
                    probabilities.push(*probability);
                }
                abi::SCHEDULE_TABLE
            }
        };
        let options = abi::ScheduleOptions {
            struct_size: size_of::<abi::ScheduleOptions>(),
            kind,
            dimension,
            num_dimensions: m,
            alpha,
            weights: weights.as_ptr(),
            num_rows: if probabilities.is_empty() { usize::from(!weights.is_empty()) } else { probabilities.len() },
            probabilities: probabilities.as_ptr(),
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: the options and their arrays live through the call.
        call(|error| unsafe { (self.api().schedule_new)(&options, &mut handle, error) })?;
        let handle = NonNull::new(handle).ok_or_else(|| answer("schedule_new", "no schedule"))?;
        Ok(Schedule { plugin: self.clone(), handle, num_dimensions: m })
    }
}

/// Checks a row of weights, of which the plugin reads M whatever its length.
fn check_row(row: &[f64], m: usize) -> Result<(), PluginError> {
    if row.len() == m {
        return Ok(());
    }
    let message = format!("a λ has {} weights, but there are {m} dimensions", row.len());
    Err(PluginError::Call { status: abi::STATUS_INVALID_ARGUMENT, message })
}

impl Schedule {
    /// Draws the λ `[M]` of one prompt instance.
    ///
    /// # Errors
    ///
    /// Returns an error only if the plugin has a defect.
    pub fn draw_instance(&self, seed: u64, epoch: u64, record_index: u64) -> Result<Vec<f64>, PluginError> {
        let mut lambda = vec![0.0; self.num_dimensions];
        let draw = self.plugin.api().schedule_draw_instance;
        // SAFETY: the handle is alive and `lambda` holds M values.
        call(|error| unsafe { draw(self.handle.as_ptr(), seed, epoch, record_index, lambda.as_mut_ptr(), error) })?;
        Ok(lambda)
    }

    /// Draws the λ `[M]` of one optimiser step.
    ///
    /// # Errors
    ///
    /// Returns an error only if the plugin has a defect.
    pub fn draw_step(&self, seed: u64, global_step: u64) -> Result<Vec<f64>, PluginError> {
        let mut lambda = vec![0.0; self.num_dimensions];
        let draw = self.plugin.api().schedule_draw_step;
        // SAFETY: the handle is alive and `lambda` holds M values.
        call(|error| unsafe { draw(self.handle.as_ptr(), seed, global_step, lambda.as_mut_ptr(), error) })?;
        Ok(lambda)
    }
}
