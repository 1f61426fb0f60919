//! The weights of a λ-adapter as people give them: `--lambda name=w,…`, or a number for each name.

use anyhow::{Context as _, Result, bail};

use crate::config::LAMBDA_TOLERANCE;

/// Parses weights `[M]`, in the order of `dimensions`, that sum to 1: `--lambda name=w,…`.
///
/// Dimensions not named share the rest equally. The given sum may differ from 1 by [`LAMBDA_TOLERANCE`] and is
/// renormalised.
///
/// # Errors
///
/// Returns an error if a part is not of the form name=weight, a name is no dimension or comes twice, a weight is no number of
/// at least 0, or they do not sum to 1.
pub fn parse(text: &str, dimensions: &[String]) -> Result<Vec<f64>> {
    let mut named = Named::new(dimensions);
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, weight) = part
            .split_once('=')
            .with_context(|| format!("`{part}` in λ is not of the form name=weight, as in honesty=0.5"))?;
        let (name, weight) = (name.trim(), weight.trim());
        named.add(name, weight.parse().ok(), weight)?;
    }
    named.finish()
}

/// Returns weights `[M]`, in the order of `dimensions`, by the rules of [`parse`].
///
/// # Errors
///
/// As those of [`parse`].
pub fn from_weights<'n>(weights: impl IntoIterator<Item = (&'n str, f64)>, dimensions: &[String]) -> Result<Vec<f64>> {
    let mut named = Named::new(dimensions);
    for (name, weight) in weights {
        named.add(name, Some(weight), &weight.to_string())?;
    }
    named.finish()
}

/// Formats λ as [`parse`] reads it.
#[must_use]
pub fn show(weights: &[f64], dimensions: &[String]) -> String {
    let part = |(name, weight): (&String, &f64)| format!("{name}={}", (weight * 1e4).round() / 1e4);
    dimensions.iter().zip(weights).map(part).collect::<Vec<_>>().join(",")
}

/// Weights of some dimensions.
struct Named<'d> {
    dimensions: &'d [String],
    weights: Vec<Option<f64>>,
}

impl<'d> Named<'d> {
    fn new(dimensions: &'d [String]) -> Self {
        Self { dimensions, weights: vec![None; dimensions.len()] }
    }

    /// Gives a dimension its weight, which is `shown` in messages; None if it is no number.
    fn add(&mut self, name: &str, weight: Option<f64>, shown: &str) -> Result<()> {
        let Some(index) = self.dimensions.iter().position(|dimension| dimension == name) else {
            bail!("λ names the dimension `{name}`, but the adapter has {}", self.dimensions.join(", "));
        };
        let weight = weight.filter(|weight| weight.is_finite() && *weight >= 0.0);
        let weight = weight
            .with_context(|| format!("λ gives `{name}` the weight {shown}: weights must be numbers of at least 0"))?;
        if self.weights[index].replace(weight).is_some() {
            bail!("λ names `{name}` twice");
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<f64>> {
        let total: f64 = self.weights.iter().flatten().sum();
        let num_left = self.weights.iter().filter(|weight| weight.is_none()).count();
        let excess = total - 1.0;
        if excess > LAMBDA_TOLERANCE || (num_left == 0 && excess < -LAMBDA_TOLERANCE) {
            bail!(
                "the weights of λ sum to {}: they must sum to 1 within {LAMBDA_TOLERANCE}",
                (total * 1e6).round() / 1e6
            );
        }
        let share = (1.0 - total).max(0.0) / num_left.max(1) as f64;
        let weights: Vec<f64> = self.weights.into_iter().map(|weight| weight.unwrap_or(share)).collect();
        let total: f64 = weights.iter().sum();
        Ok(weights.into_iter().map(|weight| weight / total).collect())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn names() -> Vec<String> {
        ["helpfulness", "honesty", "truth"].map(str::to_owned).to_vec()
    }

    fn close(text: &str, expected: [f64; 3]) {
        let found = parse(text, &names()).unwrap();
        assert!(
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12),
            "{text}: {found:?}"
        );
    }

    #[test]
    fn the_rest_is_shared_equally() {
        close("helpfulness=0.7,honesty=0.1,truth=0.2", [0.7, 0.1, 0.2]);
        close(" honesty = 0.5 ", [0.25, 0.5, 0.25]);
        close("honesty=1", [0.0, 1.0, 0.0]);
        close("honesty=0.6,truth=0.4", [0.0, 0.6, 0.4]);
        close("", [1.0 / 3.0; 3]);
    }

    #[test]
    fn weights_sum_to_one_within_a_thousandth() {
        close("helpfulness=0.5005,honesty=0.5,truth=0", [0.5005 / 1.0005, 0.5 / 1.0005, 0.0]);
        close("helpfulness=0.4995,honesty=0.5,truth=0", [0.4995 / 0.9995, 0.5 / 0.9995, 0.0]);
        close("helpfulness=1.0005", [1.0, 0.0, 0.0]);
        for text in ["helpfulness=1.002", "helpfulness=0.6,honesty=0.5", "helpfulness=0.2,honesty=0.3,truth=0.4"] {
            let message = parse(text, &names()).unwrap_err().to_string();
            assert!(message.ends_with(": they must sum to 1 within 0.001"), "{message}");
        }
    }

    #[test]
    fn invalid_weights_are_refused() {
        let message = |text| parse(text, &names()).unwrap_err().to_string();
        assert_eq!(
            message("honest=1"),
            "λ names the dimension `honest`, but the adapter has helpfulness, honesty, truth"
        );
        assert_eq!(message("honesty"), "`honesty` in λ is not of the form name=weight, as in honesty=0.5");
        assert_eq!(message("honesty=-1"), "λ gives `honesty` the weight -1: weights must be numbers of at least 0");
        assert_eq!(message("honesty=nan"), "λ gives `honesty` the weight nan: weights must be numbers of at least 0");
        assert_eq!(message("honesty=0.5,honesty=0.5"), "λ names `honesty` twice");
    }

    #[test]
    fn numbers_by_name_follow_the_same_rules() {
        let weights = |weights: &[(&'static str, f64)]| {
            from_weights(weights.iter().copied(), &names()).map_err(|error| error.to_string())
        };
        assert_eq!(weights(&[("honesty", 0.5)]).unwrap(), parse("honesty=0.5", &names()).unwrap());
        assert_eq!(weights(&[]).unwrap(), parse("", &names()).unwrap());
        for (given, same) in [
            (&[("honest", 1.0)][..], "honest=1"),
            (&[("honesty", -1.0)], "honesty=-1"),
            (&[("honesty", 1.2)], "honesty=1.2"),
            (&[("honesty", 0.5), ("honesty", 0.5)], "honesty=0.5,honesty=0.5"),
        ] {
            assert_eq!(weights(given).unwrap_err(), parse(same, &names()).unwrap_err().to_string());
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        assert_eq!(show(&[0.7, 0.1, 0.2], &names()), "helpfulness=0.7,honesty=0.1,truth=0.2");
        close(&show(&[1.0 / 3.0; 3], &names()), [1.0 / 3.0; 3]);
    }
}
