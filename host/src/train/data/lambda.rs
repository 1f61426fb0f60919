//! Section `[lambda]` of the config → λ of each prompt of a micro-batch.

use std::collections::BTreeMap;

use crate::config::{ConfigError, LambdaSection, Normalization, Per, RunConfig, Schedule as ScheduleName};
use crate::plugin::{Plugin, PluginError, Schedule, ScheduleKind, ScheduleOptions};
use crate::policy::batch_inputs::uniform_lambda;
use crate::train::TrainError;

/// Source of λ.
#[derive(Debug)]
pub enum LambdaSource {
    /// The same λ for every prompt, in stages without rated dimensions (sft, dpo).
    Constant(Vec<f64>),
    /// λ drawn from a schedule.
    Schedule {
        /// The schedule.
        schedule: Schedule,
        /// How often it is drawn.
        per: Per,
        /// Seed of the run.
        seed: u64,
    },
}

impl LambdaSource {
    /// Draws λ `[B, M]` of a micro-batch, row-major.
    pub(super) fn draw(&self, epoch: u64, global_step: u64, records: &[u64]) -> Result<Vec<f64>, PluginError> {
        let mut lambda = Vec::new();
        for record in records {
            lambda.extend(match self {
                Self::Constant(lambda) => lambda.clone(),
                Self::Schedule { schedule, per: Per::Instance, seed } => {
                    schedule.draw_instance(*seed, epoch, *record)?
                }
                Self::Schedule { schedule, per: Per::Step, seed } => schedule.draw_step(*seed, global_step)?,
            });
        }
        Ok(lambda)
    }
}

/// Returns the source of λ over `dimensions`, and the λ of evaluations: the fixed one, or else uniform.
pub(super) fn lambda_source(
    config: &RunConfig,
    plugin: &Plugin,
    dimensions: &[String],
) -> Result<(LambdaSource, Vec<f64>), TrainError> {
    let schedule = plugin.schedule(&schedule_options(&config.lambda, dimensions)?)?;
    let eval_lambda = match config.lambda.schedule {
        ScheduleName::Fixed => schedule.draw_step(config.seed, 0)?,
        _ => uniform_lambda(dimensions.len()),
    };
    Ok((LambdaSource::Schedule { schedule, per: config.lambda.per, seed: config.seed }, eval_lambda))
}

/// Converts section `[lambda]` to the plugin's options, with indices instead of names of dimensions.
///
/// # Errors
///
/// Returns an error if a name is not a dimension of the records.
pub fn schedule_options(lambda: &LambdaSection, dimensions: &[String]) -> Result<ScheduleOptions, ConfigError> {
    let kind = match lambda.schedule {
        ScheduleName::UniformNormalized => ScheduleKind::UniformNormalized,
        ScheduleName::Dirichlet => ScheduleKind::Dirichlet { alpha: lambda.alpha },
        ScheduleName::Gaussian => match lambda.normalization {
            Normalization::Softmax => ScheduleKind::Gaussian,
            Normalization::Abs => ScheduleKind::GaussianAbs,
        },
        ScheduleName::Unimodal => match lambda.dimension.as_deref() {
            None | Some("cycle") => ScheduleKind::UnimodalCycle,
            Some(name) => ScheduleKind::Unimodal { dimension: position("lambda.dimension", name, dimensions)? },
        },
        ScheduleName::Fixed => {
            let weights = lambda.weights.clone().unwrap_or_default();
            ScheduleKind::Fixed { weights: row("lambda.weights", &weights, dimensions)? }
        }
        ScheduleName::Table => {
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
    let mut named = vec![false; dimensions.len()];
    for (name, weight) in weights {
        let dimension = position(key, name, dimensions)?;
        if std::mem::replace(&mut named[dimension], true) {
            return Err(ConfigError::Invalid(format!("{key} names the dimension `{}` twice", dimensions[dimension])));
        }
        row[dimension] = *weight;
    }
    Ok(row)
}

/// Returns the dimension with this name, or the only one with this name in another case: variables of the environment are
/// usually written in capitals.
fn position(key: &str, name: &str, dimensions: &[String]) -> Result<usize, ConfigError> {
    let exact = dimensions.iter().position(|dimension| dimension == name);
    let in_any_case = || {
        let mut found = (0..).zip(dimensions).filter(|(_, dimension)| dimension.to_lowercase() == name.to_lowercase());
        found.next().filter(|_| found.next().is_none()).map(|(dimension, _)| dimension)
    };
    exact.or_else(in_any_case).ok_or_else(|| {
        ConfigError::Invalid(format!(
            "{key} names the dimension `{name}`, which the records do not have: they have {}",
            dimensions.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn fixed(weights: &[(&str, f64)], dimensions: &[&str]) -> Result<ScheduleOptions, ConfigError> {
        let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let lambda =
            LambdaSection { schedule: ScheduleName::Fixed, weights: Some(weights), ..LambdaSection::default() };
        schedule_options(&lambda, &dimensions.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_dimension_in_another_case_is_found_if_there_is_one() {
        let weights = |options: ScheduleOptions| match options.kind {
            ScheduleKind::Fixed { weights } => weights,
            other => panic!("{other:?}"),
        };
        let found = fixed(&[("HONESTY", 0.25), ("Helpfulness", 0.75)], &["Helpfulness", "honesty"]).unwrap();
        assert_eq!(weights(found), [0.75, 0.25]);
        assert_eq!(weights(fixed(&[("HONESTY", 1.0)], &["honesty", "HONESTY"]).unwrap()), [0.0, 1.0]);
        assert!(fixed(&[("Honesty", 1.0)], &["honesty", "HONESTY"]).is_err());
        assert_eq!(
            fixed(&[("honesty", 0.5), ("Honesty", 0.5)], &["honesty"]).unwrap_err().to_string(),
            "lambda.weights names the dimension `honesty` twice"
        );
    }

    #[test]
    fn unknown_dimensions_list_the_known_ones() {
        let dimensions = ["helpfulness".to_owned(), "honesty".to_owned()];
        let lambda = LambdaSection {
            schedule: ScheduleName::Fixed,
            weights: Some([("helpfullness".to_owned(), 1.0)].into()),
            ..LambdaSection::default()
        };
        assert_eq!(
            schedule_options(&lambda, &dimensions).unwrap_err().to_string(),
            "lambda.weights names the dimension `helpfullness`, which the records do not have: they have helpfulness, honesty"
        );
    }
}
