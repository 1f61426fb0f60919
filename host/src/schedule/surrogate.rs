//! A score as a quadratic function of λ, fitted by ridge regression.

use anyhow::{Result, ensure};
use lambda_dpo_concepts::words;
use tch::{Device, Kind, Tensor};

/// Singular values below this, relative to the largest, count as 0: well above the rounding of λ given with some digits,
/// well below those of λ that differ by a hundredth.
const RANK_TOLERANCE: f64 = 1e-6;

words! {
    /// The terms of a surrogate.
    Form {
        /// A constant, and λ_k and λ_k² for each dimension.
        Diagonal = "diagonal",
        /// These, and λ_j λ_k for each pair of dimensions.
        Full = "full",
    }
}

impl Form {
    /// Returns the number of different anchors below which a fit over M dimensions is refused: for `diagonal`, as many as
    /// the corners and the centre are; for `full`, as many as a quadratic function on the simplex has coefficients,
    /// M (M + 1) / 2.
    pub fn min_anchors(self, num_dimensions: usize) -> usize {
        match self {
            Self::Diagonal => num_dimensions + 1,
            Self::Full => num_dimensions * (num_dimensions + 1) / 2,
        }
    }

    /// Returns λ, its squares and, if full, its products in the order (1, 2), (1, 3), …, (2, 3), ….
    fn terms(self, lambda: &[f64]) -> Vec<f64> {
        let mut terms = lambda.to_vec();
        terms.extend(lambda.iter().map(|weight| weight * weight));
        if self == Self::Full {
            for (j, weight) in lambda.iter().enumerate() {
                terms.extend(lambda[j + 1..].iter().map(|other| weight * other));
            }
        }
        terms
    }
}

/// A λ with a known score.
#[derive(Clone, Debug, PartialEq)]
pub struct Anchor {
    /// λ `[M]`
    pub lambda: Vec<f64>,
    /// Score of a model at this λ.
    pub score: f64,
}

/// A quadratic function of λ.
///
/// # Equation
///
/// ŷ(λ) = a + Σ_k b_k λ_k + Σ_k c_k λ_k² + Σ_{j<k} d_jk λ_j λ_k
#[derive(Clone, Debug, PartialEq)]
pub struct Surrogate {
    form: Form,
    num_dimensions: usize,
    intercept: f64,
    /// b, c, d.
    coefficients: Vec<f64>,
}

impl Surrogate {
    /// Fits a surrogate to anchors.
    ///
    /// # Equation
    ///
    /// min over a, w of Σ_i (y_i − a − w·φ(λ_i))² + ridge ‖w‖², with w = (b, c, d) and φ the terms of the form.
    ///
    /// On the simplex Σ_k λ_k = 1, so a and a constant added to b are one and the same: ridge, which leaves a free, chooses
    /// between them. With fewer anchors than coefficients and a small ridge it is the smallest w through all anchors.
    ///
    /// # Numerics
    ///
    /// float64, by a QR decomposition of the terms stacked on √ridge · I, which does not square their condition. Equal
    /// scores give w = 0 to the last bit.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no anchors, ridge is not a finite number above 0, or the scores are too large for
    /// float64. Errors from libtorch.
    pub fn fit(form: Form, ridge: f64, anchors: &[Anchor]) -> Result<Self> {
        ensure!(!anchors.is_empty(), "a surrogate cannot be fitted to no anchors");
        ensure!(ridge > 0.0 && ridge.is_finite(), "ridge must be a number above 0, not {ridge}");
        let num_dimensions = anchors[0].lambda.len();
        // Differences from one score are exactly 0 if all are equal.
        let base = anchors[0].score;
        let scores: Vec<f64> = anchors.iter().map(|anchor| anchor.score - base).collect();
        let mean_score = scores.iter().sum::<f64>() / scores.len() as f64;
        let overflow = || {
            let largest = anchors.iter().map(|anchor| anchor.score.abs()).fold(0.0, f64::max);
            format!("the fit overflows: divide the scores, which reach {largest:e}, by a constant")
        };
        // LAPACK takes no infinities.
        ensure!(mean_score.is_finite() && scores.iter().all(|score| (score - mean_score).is_finite()), overflow());

        let kind = (Kind::Double, Device::Cpu);
        let terms = matrix(anchors.iter().map(|anchor| form.terms(&anchor.lambda)))?; // [n, P]
        let num_terms = terms.size()[1];
        // A free intercept is a fit of deviations from the means.
        let mean_terms = terms.f_mean_dim([0_i64].as_slice(), false, Kind::Double)?;
        let shrink = Tensor::f_eye(num_terms, kind)?.f_mul_scalar(ridge.sqrt())?;
        let design = Tensor::f_cat(&[terms.f_sub(&mean_terms)?, shrink], 0)?; // [n + P, P]
        let deviations = Tensor::f_from_slice(&scores)?.f_sub_scalar(mean_score)?;
        let target = Tensor::f_cat(&[deviations, Tensor::f_zeros([num_terms], kind)?], 0)?;
        let (solution, ..) = design.f_linalg_lstsq(&target.f_unsqueeze(-1)?, None, "gels")?;
        let coefficients = Vec::<f64>::try_from(solution.f_reshape([-1])?)?;
        let mean_terms = Vec::<f64>::try_from(mean_terms)?;
        let intercept = base + mean_score - dot(&coefficients, &mean_terms);
        ensure!(intercept.is_finite() && coefficients.iter().all(|value| value.is_finite()), overflow());
        Ok(Self { form, num_dimensions, intercept, coefficients })
    }

    /// Returns ŷ at λ `[M]`.
    pub fn predict(&self, lambda: &[f64]) -> f64 {
        self.intercept + dot(&self.coefficients, &self.form.terms(lambda))
    }

    /// Returns a.
    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    /// Returns b `[M]`.
    pub fn linear(&self) -> &[f64] {
        &self.coefficients[..self.num_dimensions]
    }

    /// Returns c `[M]`.
    pub fn squares(&self) -> &[f64] {
        &self.coefficients[self.num_dimensions..2 * self.num_dimensions]
    }

    /// Returns (j, k, d_jk) for each pair j < k; none if the surrogate is diagonal.
    pub fn products(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        let pairs = (0..self.num_dimensions).flat_map(|j| (j + 1..self.num_dimensions).map(move |k| (j, k)));
        pairs.zip(&self.coefficients[2 * self.num_dimensions..]).map(|((j, k), value)| (j, k, *value))
    }
}

/// Returns the score of each anchor as predicted by a surrogate of all the others.
///
/// # Errors
///
/// As for [`Surrogate::fit`].
pub fn leave_one_out(form: Form, ridge: f64, anchors: &[Anchor]) -> Result<Vec<f64>> {
    let without = |left_out: usize| {
        let mut others = anchors.to_vec();
        let anchor = others.remove(left_out);
        Ok(Surrogate::fit(form, ridge, &others)?.predict(&anchor.lambda))
    };
    (0..anchors.len()).map(without).collect()
}

/// Returns the number of linearly independent λ among those given, at most M.
///
/// # Errors
///
/// Errors from libtorch.
pub fn num_directions(anchors: &[Anchor]) -> Result<usize> {
    rank(anchors.iter().map(|anchor| anchor.lambda.clone()))
}

/// Returns the number of coefficients of a quadratic function on the simplex that the anchors determine, at most
/// M (M + 1) / 2 for a full one.
///
/// # Errors
///
/// Errors from libtorch.
pub fn num_determined(form: Form, anchors: &[Anchor]) -> Result<usize> {
    rank(anchors.iter().map(|anchor| form.terms(&anchor.lambda)))
}

fn rank(rows: impl Iterator<Item = Vec<f64>>) -> Result<usize> {
    let rank = matrix(rows)?.f_linalg_matrix_rank_atol_rtol_float(None, RANK_TOLERANCE, false)?;
    Ok(usize::try_from(rank.f_int64_value(&[])?)?)
}

fn matrix(rows: impl Iterator<Item = Vec<f64>>) -> Result<Tensor> {
    let rows: Vec<Vec<f64>> = rows.collect();
    Ok(Tensor::f_from_slice(&rows.concat())?.f_reshape([i64::try_from(rows.len())?, -1])?)
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// Returns softmax(values / temperature); equal values give equal probabilities to the last bit.
pub fn softmax(values: &[f64], temperature: f64) -> Vec<f64> {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = values.iter().map(|value| ((value - max) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::Value;

    use super::*;

    fn anchors(points: &[(&[f64], f64)]) -> Vec<Anchor> {
        points.iter().map(|(lambda, score)| Anchor { lambda: lambda.to_vec(), score: *score }).collect()
    }

    /// Corners and centre of four dimensions.
    fn corners_and_centre(scores: [f64; 5]) -> Vec<Anchor> {
        let points: [&[f64]; 5] =
            [&[1.0, 0.0, 0.0, 0.0], &[0.0, 1.0, 0.0, 0.0], &[0.0, 0.0, 1.0, 0.0], &[0.0, 0.0, 0.0, 1.0], &[0.25; 4]];
        anchors(&points.into_iter().zip(scores).collect::<Vec<_>>())
    }

    /// Both sides are float64; numpy solves the same equations in another order. Coefficients of a ridge of 1e-8 lose the
    /// most: half of the digits, squared, of the smallest direction.
    fn close(found: &[f64], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what}: {found} against {expected}");
        }
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    }

    #[test]
    fn fits_are_those_of_numpy() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/golden/surrogate/goldens.json");
        let fits: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(fits.len(), 3);
        for fit in fits {
            let name = fit["name"].as_str().unwrap();
            let form: Form = fit["surrogate"].as_str().unwrap().parse().unwrap();
            let ridge = fit["ridge"].as_f64().unwrap();
            let scores = numbers(&fit["scores"]);
            let points: Vec<Anchor> = fit["anchors"]
                .as_array()
                .unwrap()
                .iter()
                .zip(&scores)
                .map(|(lambda, score)| Anchor { lambda: numbers(lambda), score: *score })
                .collect();
            let surrogate = Surrogate::fit(form, ridge, &points).unwrap();
            close(&[surrogate.intercept()], &[fit["intercept"].as_f64().unwrap()], name);
            close(surrogate.linear(), &numbers(&fit["linear"]), name);
            close(surrogate.squares(), &numbers(&fit["squares"]), name);
            let products: Vec<f64> = surrogate.products().map(|(_, _, value)| value).collect();
            close(&products, &numbers(&fit["products"]), name);
            let residuals: Vec<f64> =
                points.iter().map(|anchor| anchor.score - surrogate.predict(&anchor.lambda)).collect();
            close(&residuals, &numbers(&fit["residuals"]), name);
            let left_out = leave_one_out(form, ridge, &points).unwrap();
            let errors: Vec<f64> = scores.iter().zip(left_out).map(|(score, predicted)| score - predicted).collect();
            close(&errors, &numbers(&fit["leave_one_out_errors"]), name);
            let candidates = fit["candidates"].as_array().unwrap().iter().map(numbers);
            let predicted: Vec<f64> = candidates.map(|lambda| surrogate.predict(&lambda)).collect();
            close(&predicted, &numbers(&fit["predicted"]), name);
        }
    }

    #[test]
    fn a_small_ridge_goes_through_the_corners_and_the_centre() {
        let scores = [0.2, -0.4, 0.7, 0.1, 0.9];
        let anchors = corners_and_centre(scores);
        for form in [Form::Diagonal, Form::Full] {
            let surrogate = Surrogate::fit(form, 1e-9, &anchors).unwrap();
            let found: Vec<f64> = anchors.iter().map(|anchor| surrogate.predict(&anchor.lambda)).collect();
            for (found, score) in found.iter().zip(scores) {
                assert!((found - score).abs() < 1e-7, "{form}: {found} against {score}");
            }
        }
    }

    #[test]
    fn a_quadratic_function_is_recovered_from_enough_anchors() {
        // 0.3 + λ_1 − 2 λ_2² + 1.5 λ_1 λ_3, at all λ in sixths. Of fewer than four dimensions, the squares span the products.
        let truth = |lambda: &[f64]| 0.3 + lambda[0] - 2.0 * lambda[1] * lambda[1] + 1.5 * lambda[0] * lambda[2];
        let mut anchors = Vec::new();
        for (first, second, third) in (0..343).map(|code| (code / 49, code / 7 % 7, code % 7)) {
            let parts = [first, second, third, 6 - first - second - third];
            if parts[3] >= 0 {
                let lambda = parts.map(|part| f64::from(part) / 6.0).to_vec();
                anchors.push(Anchor { score: truth(&lambda), lambda });
            }
        }
        assert_eq!(num_determined(Form::Full, &anchors).unwrap(), Form::Full.min_anchors(4));
        let error = |form| {
            let surrogate = Surrogate::fit(form, 1e-9, &anchors).unwrap();
            let lambda = [0.21, 0.36, 0.33, 0.1];
            (surrogate.predict(&lambda) - truth(&lambda)).abs()
        };
        assert!(error(Form::Full) < 1e-7, "{}", error(Form::Full));
        assert!(error(Form::Diagonal) > 1e-3, "{}", error(Form::Diagonal));
    }

    #[test]
    fn equal_scores_give_a_constant_to_the_last_bit() {
        for score in [0.0, 0.1, -3.7e9, 1e300] {
            for form in [Form::Diagonal, Form::Full] {
                let anchors = corners_and_centre([score; 5]);
                let surrogate = Surrogate::fit(form, 1e-3, &anchors).unwrap();
                assert_eq!(surrogate.predict(&[0.1, 0.2, 0.3, 0.4]), score);
                assert_eq!(leave_one_out(form, 1e-3, &anchors).unwrap(), [score; 5]);
            }
        }
        assert_eq!(softmax(&[0.1; 10], 0.3), [0.1; 10]);
    }

    #[test]
    fn a_softmax_stays_finite_at_any_temperature() {
        for temperature in [f64::MIN_POSITIVE, 1e-12, 1.0, f64::MAX] {
            let weights = softmax(&[-1e300, 2.0, 1.0, 1e300], temperature);
            assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{temperature}: {weights:?}");
        }
        let weights = softmax(&[0.0, 2.0_f64.ln()], 1.0);
        assert!((weights[1] - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(softmax(&[1.0, 2.0], 1e-9), [0.0, 1.0]);
    }

    #[test]
    fn scores_beyond_float64_are_refused() {
        let message =
            |scores| Surrogate::fit(Form::Diagonal, 1e-3, &corners_and_centre(scores)).unwrap_err().to_string();
        let expected = "the fit overflows: divide the scores, which reach 1.7e308, by a constant";
        assert_eq!(message([1.7e308, -1.7e308, 0.0, 0.0, 0.0]), expected);
        assert_eq!(message([1.7e308, 1e308, 1.7e308, -1e307, -1e308]), expected);
    }

    #[test]
    fn the_lines_through_the_centre_do_not_determine_a_full_surrogate() {
        // The grid that `steer` measures: each dimension from 0 to 1 with the rest equal.
        let mut grid = Vec::new();
        for dimension in 0..4 {
            for step in 0..=4 {
                let own = f64::from(step) / 4.0;
                let mut lambda = vec![(1.0 - own) / 3.0; 4];
                lambda[dimension] = own;
                grid.push(Anchor { lambda, score: 0.0 });
            }
        }
        assert_eq!((num_directions(&grid).unwrap(), num_determined(Form::Full, &grid).unwrap()), (4, 8));
        let edges = anchors(&[(&[0.5, 0.5, 0.0, 0.0], 0.0), (&[0.5, 0.0, 0.5, 0.0], 0.0)]);
        assert_eq!(num_determined(Form::Full, &[grid, edges].concat()).unwrap(), 10);
    }
}
