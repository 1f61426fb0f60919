//! `--lambda name=w,…`: the weights of a λ-adapter.

use anyhow::{Context as _, Result, bail};

use crate::config::LAMBDA_TOLERANCE;

/// Parses weights `[M]`, in the order of `dimensions`, that sum to 1.
///
/// Dimensions not named share the rest equally. The given sum may differ from 1 by [`LAMBDA_TOLERANCE`] and is
/// renormalised.
pub(super) fn parse(text: &str, dimensions: &[String]) -> Result<Vec<f64>> {
    let mut named: Vec<Option<f64>> = vec![None; dimensions.len()];
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, weight) = part
            .split_once('=')
            .with_context(|| format!("`{part}` in λ is not of the form name=weight, as in honesty=0.5"))?;
        let (name, weight) = (name.trim(), weight.trim());
        let Some(index) = dimensions.iter().position(|dimension| dimension == name) else {
            bail!("λ names the dimension `{name}`, but the adapter has {}", dimensions.join(", "));
        };
        let parsed = weight.parse::<f64>().ok().filter(|weight| weight.is_finite() && *weight >= 0.0);
        let parsed = parsed
            .with_context(|| format!("λ gives `{name}` the weight {weight}: weights must be numbers of at least 0"))?;
        if named[index].replace(parsed).is_some() {
            bail!("λ names `{name}` twice");
        }
    }
    let total: f64 = named.iter().flatten().sum();
    let num_left = named.iter().filter(|weight| weight.is_none()).count();
    let excess = total - 1.0;
    if excess > LAMBDA_TOLERANCE || (num_left == 0 && excess < -LAMBDA_TOLERANCE) {
        bail!("the weights of λ sum to {}: they must sum to 1 within {LAMBDA_TOLERANCE}", (total * 1e6).round() / 1e6);
    }
    let share = (1.0 - total).max(0.0) / num_left.max(1) as f64;
    let weights: Vec<f64> = named.into_iter().map(|weight| weight.unwrap_or(share)).collect();
    let total: f64 = weights.iter().sum();
    Ok(weights.into_iter().map(|weight| weight / total).collect())
}

/// Formats λ as `parse` reads it.
pub(super) fn show(weights: &[f64], dimensions: &[String]) -> String {
    let part = |(name, weight): (&String, &f64)| format!("{name}={}", (weight * 1e4).round() / 1e4);
    dimensions.iter().zip(weights).map(part).collect::<Vec<_>>().join(",")
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
    fn what_is_shown_can_be_read() {
        assert_eq!(show(&[0.7, 0.1, 0.2], &names()), "helpfulness=0.7,honesty=0.1,truth=0.2");
        close(&show(&[1.0 / 3.0; 3], &names()), [1.0 / 3.0; 3]);
    }
}
