//! The λ that a table chooses among.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::plugin::{Plugin, ScheduleKind, ScheduleOptions};

use super::lines::{self, LambdaLine};

/// Draws candidates `[K][M]` from Dir(1): the λ that a run with this seed and `schedule = "dirichlet"` draws for its first
/// K records in its first epoch.
///
/// # Errors
///
/// Errors from the plugin.
pub fn draw(plugin: &Plugin, num_dimensions: usize, num_candidates: usize, seed: u64) -> Result<Vec<Vec<f64>>> {
    let schedule =
        plugin.schedule(&ScheduleOptions { kind: ScheduleKind::Dirichlet { alpha: 1.0 }, num_dimensions })?;
    (0..num_candidates as u64).map(|record| Ok(schedule.draw_instance(seed, 0, record)?)).collect()
}

/// Reads candidates `[K][M]` from JSON lines `{"lambda": {name: weight, …}}`; dimensions not named weigh 0.
///
/// # Errors
///
/// Returns an error if there are none, or a line is not of this form, names a dimension that is none of `dimensions`, or
/// has a λ that does not sum to 1.
pub fn read(file: &Path, dimensions: &[String]) -> Result<Vec<Vec<f64>>> {
    let candidates = lines::read(file, |line: LambdaLine| line.lambda.over(dimensions))?;
    ensure!(!candidates.is_empty(), "{} holds no candidates", file.display());
    Ok(candidates)
}
