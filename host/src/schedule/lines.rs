//! JSON lines with a λ each: `{"lambda": {name: weight, …}}`, perhaps with a score.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use crate::config::LAMBDA_TOLERANCE;

/// The objects that a file has on its lines.
pub(super) trait Line: DeserializeOwned {
    /// How such a line looks, for messages.
    const SHAPE: &'static str;
}

/// λ by name, in the order of the line; each name occurs once.
#[derive(Debug)]
pub(super) struct NamedWeights(Vec<(String, Value)>);

/// A line `{"lambda": …}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LambdaLine {
    pub lambda: NamedWeights,
}

/// A line `{"lambda": …, "score": …}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScoreLine {
    pub lambda: NamedWeights,
    pub score: Value,
}

impl Line for LambdaLine {
    const SHAPE: &'static str = r#"{"lambda": {name: weight, …}}"#;
}

impl Line for ScoreLine {
    const SHAPE: &'static str = r#"{"lambda": {name: weight, …}, "score": number}"#;
}

/// Reads a file and converts each of its lines, of which blank ones are skipped.
///
/// # Errors
///
/// Returns an error that names the file, and the line of which it is true.
pub(super) fn read<L: Line, T>(file: &Path, convert: impl Fn(L) -> Result<T>) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let lines = text.trim_start_matches('\u{feff}').lines();
    let convert = |(number, line): (usize, &str)| {
        parse(line).and_then(&convert).map_err(|error| anyhow!("{}, line {number}: {error}", file.display()))
    };
    (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty()).map(convert).collect()
}

fn parse<L: Line>(line: &str) -> Result<L> {
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
        match error.classify() {
            Category::Data => anyhow!("{problem}; each line is {}", L::SHAPE),
            _ => match ["NaN", "Infinity"].iter().find(|word| line.contains(**word)) {
                Some(word) => anyhow!("{word} is not valid JSON: weights and scores must be finite numbers"),
                None => anyhow!("not valid JSON: {problem} at column {}; each line is {}", error.column(), L::SHAPE),
            },
        }
    })
}

impl NamedWeights {
    /// Returns the names of the dimensions.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }

    /// Returns λ `[M]` in the order of `dimensions`; those not named weigh 0.
    ///
    /// # Errors
    ///
    /// Returns an error if a name is none of `dimensions`, or as [`normalized`].
    pub(super) fn over(&self, dimensions: &[String]) -> Result<Vec<f64>> {
        let mut lambda = vec![0.0; dimensions.len()];
        for (name, weight) in &self.0 {
            let Some(dimension) = dimensions.iter().position(|dimension| dimension == name) else {
                bail!("λ names the dimension `{name}`, which is none of {}", dimensions.join(", "));
            };
            lambda[dimension] = weight.as_f64().filter(|weight| *weight >= 0.0).with_context(|| {
                format!("λ gives `{name}` the weight {weight}: weights must be numbers of at least 0")
            })?;
        }
        normalized(lambda)
    }
}

/// Scales λ so that its sum is 1.
///
/// # Errors
///
/// Returns an error if the sum differs from 1 by more than [`LAMBDA_TOLERANCE`].
pub(super) fn normalized(mut lambda: Vec<f64>) -> Result<Vec<f64>> {
    // Not `sum`, which is -0 of nothing.
    let total = lambda.iter().fold(0.0, |total, weight| total + weight);
    ensure!(
        (total - 1.0).abs() <= LAMBDA_TOLERANCE,
        "the weights of λ sum to {}: they must sum to 1 within {LAMBDA_TOLERANCE}",
        (total * 1e6).round() / 1e6
    );
    lambda.iter_mut().for_each(|weight| *weight /= total);
    Ok(lambda)
}

/// Returns every name that occurs, sorted.
pub(super) fn all_names<'a>(lines: impl Iterator<Item = &'a NamedWeights>) -> Vec<String> {
    lines.flat_map(NamedWeights::names).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

impl<'de> Deserialize<'de> for NamedWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = NamedWeights;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("λ by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamedWeights, A::Error> {
                let mut weights: Vec<(String, Value)> = Vec::new();
                while let Some((name, weight)) = map.next_entry()? {
                    if weights.iter().any(|(earlier, _)| *earlier == name) {
                        return Err(A::Error::custom(format!("λ names `{name}` twice")));
                    }
                    weights.push((name, weight));
                }
                Ok(NamedWeights(weights))
            }
        }
        deserializer.deserialize_map(Names)
    }
}
