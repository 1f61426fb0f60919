//! `[lambda]` once the data is open and its dimensions are known → the plugin's schedule.

use std::collections::BTreeMap;

use super::{ConfigError, LambdaSection, Normalization, Schedule};
use crate::plugin::{ScheduleKind, ScheduleOptions};

/// Puts names in their places.
///
/// # Errors
///
/// A name that is no dimension of the records.
pub fn schedule_options(lambda: &LambdaSection, dimensions: &[String]) -> Result<ScheduleOptions, ConfigError> {
    let kind = match lambda.schedule {
        Schedule::UniformNormalized => ScheduleKind::UniformNormalized,
        Schedule::Dirichlet => ScheduleKind::Dirichlet { alpha: lambda.alpha },
        Schedule::Gaussian => match lambda.normalization {
            Normalization::Softmax => ScheduleKind::Gaussian,
            Normalization::Abs => ScheduleKind::GaussianAbs,
        },
        Schedule::Unimodal => match lambda.dimension.as_deref() {
            None | Some("cycle") => ScheduleKind::UnimodalCycle,
            Some(name) => ScheduleKind::Unimodal { dimension: position("lambda.dimension", name, dimensions)? },
        },
        Schedule::Fixed => {
            let weights = lambda.weights.clone().unwrap_or_default();
            ScheduleKind::Fixed { weights: row("lambda.weights", &weights, dimensions)? }
        }
        Schedule::Table => {
            let mut rows = Vec::new();
            for (index, entry) in lambda.table.iter().flatten().enumerate() {
                let key = format!("lambda.table[{index}].weights");
                rows.push((row(&key, &entry.weights, dimensions)?, entry.probability));
            }
            ScheduleKind::Table { rows }
        }
    };
    Ok(ScheduleOptions { kind, num_dimensions: dimensions.len() })
}

fn row(key: &str, weights: &BTreeMap<String, f64>, dimensions: &[String]) -> Result<Vec<f64>, ConfigError> {
    let mut row = vec![0.0; dimensions.len()];
    for (name, weight) in weights {
        row[position(key, name, dimensions)?] = *weight;
    }
    Ok(row)
}

fn position(key: &str, name: &str, dimensions: &[String]) -> Result<usize, ConfigError> {
    dimensions.iter().position(|dimension| dimension == name).ok_or_else(|| {
        ConfigError::Invalid(format!(
            "{key} names the dimension `{name}`, which the records do not have: they have {}",
            dimensions.join(", ")
        ))
    })
}
