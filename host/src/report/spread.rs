//! Mean and spread over the runs of a row.

use schemars::JsonSchema;
use serde::Serialize;

/// A figure of a run: its value and standard error, or None if it was not measured.
pub(super) type RunValue = Option<(f64, Option<f64>)>;

/// A figure over the runs of a row.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Spread {
    /// The mean over runs.
    pub mean: f64,
    /// The standard deviation over runs, with n − 1; None of a single run.
    pub stddev: Option<f64>,
    /// The standard error of the mean, stddev / √n; None of a single run.
    pub stderr: Option<f64>,
    /// The runs' own standard errors, over prompts or questions: the root of their mean square; None where a run has none.
    pub sampling_stderr: Option<f64>,
    /// The value of each run, in the order of the row's runs; None where it was not measured.
    pub values: Vec<Option<f64>>,
}

impl Spread {
    /// Summarises the values of a row's runs, each with its own standard error; None if there are none.
    pub(super) fn of(values: &[RunValue]) -> Option<Self> {
        let known: Vec<f64> = values.iter().flatten().map(|(value, _)| *value).collect();
        let count = known.len() as f64;
        if known.is_empty() {
            return None;
        }
        // From the first value on, so that equal values have exactly that mean, and no spread.
        let mean = known[0] + known.iter().map(|value| value - known[0]).sum::<f64>() / count;
        let squares = known.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        let stddev = (known.len() > 1).then(|| (squares / (count - 1.0)).sqrt());
        let stderrs: Option<Vec<f64>> = values.iter().flatten().map(|(_, stderr)| *stderr).collect();
        let sampling_stderr = stderrs.map(|all| (all.iter().map(|stderr| stderr * stderr).sum::<f64>() / count).sqrt());
        Some(Self {
            mean,
            stddev,
            stderr: stddev.map(|stddev| stddev / count.sqrt()),
            sampling_stderr,
            values: values.iter().map(|value| value.map(|(value, _)| value)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn spreads_are_over_the_runs_that_have_the_figure() {
        let found =
            Spread::of(&[Some((1.0, Some(0.3))), None, Some((2.0, Some(0.4))), Some((6.0, Some(0.0)))]).unwrap();
        assert_eq!(found.values, [Some(1.0), None, Some(2.0), Some(6.0)]);
        assert!((found.mean - 3.0).abs() < 1e-12);
        assert!((found.stddev.unwrap() - 7.0_f64.sqrt()).abs() < 1e-12);
        assert!((found.stderr.unwrap() - (7.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((found.sampling_stderr.unwrap() - (0.25_f64 / 3.0).sqrt()).abs() < 1e-12);
        let single = Spread::of(&[Some((1.0, None))]).unwrap();
        assert_eq!((single.stddev, single.stderr, single.sampling_stderr), (None, None, None));
        assert_eq!(Spread::of(&[None]), None);
        let equal = Spread::of(&[Some((0.1, None)); 3]).unwrap();
        assert_eq!((equal.mean, equal.stddev), (0.1, Some(0.0)));
    }
}
