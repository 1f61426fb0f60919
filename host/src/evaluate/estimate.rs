//! A mean and its standard error.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An estimate from a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Estimate {
    /// The estimate.
    pub mean: f64,
    /// Its standard error; None if it cannot be told from the sample, as from a single prompt.
    pub stderr: Option<f64>,
}

impl Estimate {
    /// Estimates a mean from values in groups that were drawn independently, such as the answers to each prompt.
    ///
    /// # Equation
    ///
    /// With G groups of n_g values, n in all, and residual sums e_g = Σ (x − mean) over each group, the standard error is
    /// √(G / (G − 1) Σ_g e_g²) / n: that of a mean whose observations depend on each other within groups. Of groups of one
    /// value, it is the usual s / √n.
    ///
    /// None without values.
    #[must_use]
    pub fn of_groups(groups: &[Vec<f64>]) -> Option<Self> {
        let groups: Vec<&Vec<f64>> = groups.iter().filter(|group| !group.is_empty()).collect();
        let count = groups.iter().map(|group| group.len()).sum::<usize>() as f64;
        if groups.is_empty() {
            return None;
        }
        let mean = groups.iter().flat_map(|group| group.iter()).sum::<f64>() / count;
        let residual = |group: &&Vec<f64>| group.iter().map(|value| value - mean).sum::<f64>().powi(2);
        let num_groups = groups.len() as f64;
        let stderr = (num_groups / (num_groups - 1.0) * groups.iter().map(residual).sum::<f64>()).sqrt() / count;
        Some(Self { mean, stderr: stderr.is_finite().then_some(stderr) })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn single_values_have_the_usual_standard_error() {
        let found = Estimate::of_groups(&[vec![1.0], vec![2.0], vec![4.0], vec![]]).unwrap();
        let variance = (16.0 / 9.0 + 1.0 / 9.0 + 25.0 / 9.0) / 2.0_f64;
        assert!((found.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!((found.stderr.unwrap() - (variance / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn values_that_repeat_within_a_group_count_once() {
        let once = Estimate::of_groups(&[vec![1.0], vec![2.0], vec![4.0]]).unwrap();
        let twice = Estimate::of_groups(&[vec![1.0; 2], vec![2.0; 2], vec![4.0; 2]]).unwrap();
        assert_eq!(once.mean, twice.mean);
        assert!((once.stderr.unwrap() - twice.stderr.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn one_group_has_no_standard_error() {
        assert_eq!(Estimate::of_groups(&[vec![1.0, 3.0]]), Some(Estimate { mean: 2.0, stderr: None }));
        assert_eq!(Estimate::of_groups(&[vec![]]), None);
    }
}
