//! The λ schedules: pure functions from (seed, epoch, record index) or (seed, global step) to a point on the simplex.
//!
//! Each draw has its own random generator, keyed by everything the draw depends on. So λ does not depend on batch
//! order, the number of processes, or where a run was interrupted, and torch's generator is never used.

mod renormalize;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, Exp1, Gamma, Open01, StandardNormal};

use crate::{Error, Result};

pub(crate) use renormalize::renormalized;

/// How far given weights of λ may miss a sum of 1.
const SUM_TOLERANCE: f64 = 1e-3;
/// Above this α every draw is uniform to the last bit, and the gamma sampler overflows.
const MAX_ALPHA: f64 = 1e100;

/// A distribution of λ.
///
/// # Equation
///
/// docs/method.md, "λ schedules"; M is the number of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub enum ScheduleKind {
    /// λ = u / Σ u with u ~ U(0, 1)^M (Appendix B).
    UniformNormalized,
    /// λ ~ Dir(α·1); α = 1 is uniform on the simplex.
    Dirichlet {
        /// Concentration, above 0.
        alpha: f64,
    },
    /// λ = softmax(z) with z ~ N(0, I).
    Gaussian,
    /// λ = |z| / Σ |z| with z ~ N(0, I).
    GaussianAbs,
    /// One-hot, always at the same dimension.
    Unimodal {
        /// Index below M.
        dimension: usize,
    },
    /// One-hot at dimension (record index + epoch) mod M, or step mod M.
    UnimodalCycle,
    /// A constant λ.
    Fixed {
        /// M weights that sum to 1.
        weights: Vec<f64>,
    },
    /// A row of a table, drawn by probability.
    Table {
        /// (M weights that sum to 1, sampling weight of the row).
        rows: Vec<(Vec<f64>, f64)>,
    },
}

/// Options of a [`Schedule`].
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleOptions {
    /// Distribution of λ.
    pub kind: ScheduleKind,
    /// M.
    pub num_dimensions: usize,
}

/// A λ schedule whose options were checked.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: ScheduleKind,
    num_dimensions: usize,
}

impl Schedule {
    /// Creates a schedule; weights that sum to 1 within 1e-3 are renormalised.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no dimensions; α is not above 0; a dimension is out of range; weights are
    /// negative, not finite, too many, too few, or miss a sum of 1; or sampling weights are negative, not finite or all
    /// 0.
    pub fn new(options: ScheduleOptions) -> Result<Self> {
        let ScheduleOptions { mut kind, num_dimensions } = options;
        if num_dimensions == 0 {
            return invalid("a λ schedule needs at least one preference dimension, but num_dimensions is 0".into());
        }
        match &mut kind {
            ScheduleKind::Dirichlet { alpha } => check_alpha(*alpha)?,
            ScheduleKind::Unimodal { dimension } if *dimension >= num_dimensions => {
                return invalid(format!(
                    "the unimodal λ schedule asks for dimension {dimension}, but there are {num_dimensions}, counted from 0"
                ));
            }
            ScheduleKind::Fixed { weights } => normalize_weights(weights, num_dimensions, "the weights of λ")?,
            ScheduleKind::Table { rows } => check_table(rows, num_dimensions)?,
            _ => {}
        }
        Ok(Self { kind, num_dimensions })
    }

    /// Returns M, the length of every draw.
    pub fn num_dimensions(&self) -> usize {
        self.num_dimensions
    }

    /// Draws λ `[M]` for one prompt instance: a pure function of its arguments.
    pub fn draw_instance(&self, seed: u64, epoch: u64, record_index: u64) -> Vec<f64> {
        let m = self.num_dimensions as u64;
        let turn = (record_index % m + epoch % m) % m;
        self.draw(generator(b"instance", seed, epoch, record_index), turn as usize)
    }

    /// Draws λ `[M]` for one optimiser step, shared by its micro-batches: a pure function of its arguments.
    pub fn draw_step(&self, seed: u64, global_step: u64) -> Vec<f64> {
        let turn = global_step % self.num_dimensions as u64;
        self.draw(generator(b"step\0\0\0\0", seed, global_step, 0), turn as usize)
    }

    fn draw(&self, mut rng: ChaCha8Rng, turn: usize) -> Vec<f64> {
        let m = self.num_dimensions;
        match &self.kind {
            ScheduleKind::UniformNormalized => normalized(sample(&Open01, &mut rng, m)),
            ScheduleKind::Dirichlet { alpha } => dirichlet(*alpha, &mut rng, m),
            ScheduleKind::Gaussian => softmax(&sample(&StandardNormal, &mut rng, m)),
            ScheduleKind::GaussianAbs => {
                normalized(sample(&StandardNormal, &mut rng, m).into_iter().map(f64::abs).collect())
            }
            ScheduleKind::Unimodal { dimension } => one_hot(*dimension, m),
            ScheduleKind::UnimodalCycle => one_hot(turn, m),
            ScheduleKind::Fixed { weights } => weights.clone(),
            ScheduleKind::Table { rows } => draw_row(rows, &mut rng),
        }
    }
}

/// Creates a generator keyed by (domain, seed, a, b): equal keys give equal streams, different keys independent ones.
fn generator(domain: &[u8; 8], seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(domain);
    key[8..16].copy_from_slice(&seed.to_le_bytes());
    key[16..24].copy_from_slice(&a.to_le_bytes());
    key[24..].copy_from_slice(&b.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

fn sample<D: Distribution<f64>>(distribution: &D, rng: &mut ChaCha8Rng, m: usize) -> Vec<f64> {
    (0..m).map(|_| distribution.sample(rng)).collect()
}

/// λ = g / Σ g with g ~ Gamma(α), in log space: for small α every g underflows to 0.
///
/// # Equation
///
/// Gamma(α) = Gamma(α + 1) · U^(1/α), so log g = log Gamma(α + 1) − e / α with e ~ Exp(1).
fn dirichlet(alpha: f64, rng: &mut ChaCha8Rng, m: usize) -> Vec<f64> {
    let exponentials: Vec<f64> = sample(&Exp1, rng, m);
    let smallest = exponentials.iter().copied().fold(f64::INFINITY, f64::min);
    // `new` has checked that 0 < α ≤ MAX_ALPHA, which Gamma accepts; if not, no caller would overlook NaN.
    let gammas = match Gamma::new(alpha + 1.0, 1.0) {
        Ok(gamma) => sample(&gamma, rng, m),
        Err(_) => vec![f64::NAN; m],
    };
    // Subtracting the smallest first keeps the largest entry finite however small α is.
    let logs: Vec<f64> = gammas.iter().zip(&exponentials).map(|(g, e)| g.ln() + (smallest - e) / alpha).collect();
    softmax(&logs)
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    normalized(logits.iter().map(|z| (z - max).exp()).collect())
}

fn normalized(mut weights: Vec<f64>) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
    weights
}

fn one_hot(dimension: usize, m: usize) -> Vec<f64> {
    (0..m).map(|k| f64::from(u8::from(k == dimension))).collect()
}

fn draw_row(rows: &[(Vec<f64>, f64)], rng: &mut ChaCha8Rng) -> Vec<f64> {
    let total: f64 = rows.iter().map(|(_, probability)| probability).sum();
    let u: f64 = Open01.sample(rng);
    let mut left = u * total;
    let mut chosen = &rows[0].0;
    for (weights, probability) in rows.iter().filter(|(_, probability)| *probability > 0.0) {
        // The last row of positive probability stays chosen if rounding leaves a remainder.
        chosen = weights;
        left -= probability;
        if left < 0.0 {
            break;
        }
    }
    chosen.clone()
}

fn check_alpha(alpha: f64) -> Result<()> {
    if alpha > 0.0 && alpha <= MAX_ALPHA {
        return Ok(());
    }
    invalid(format!("alpha of the dirichlet λ schedule is {alpha}, but it must be above 0 and at most {MAX_ALPHA:e}"))
}

fn check_table(rows: &mut [(Vec<f64>, f64)], num_dimensions: usize) -> Result<()> {
    if rows.is_empty() {
        return invalid("the table λ schedule has no rows: give at least one row of weights".into());
    }
    for (row, (weights, probability)) in rows.iter_mut().enumerate() {
        normalize_weights(weights, num_dimensions, &format!("the weights of λ in row {row} of the table"))?;
        if !(probability.is_finite() && *probability >= 0.0) {
            return invalid(format!(
                "the probability of row {row} of the λ table is {probability}, but it must be a finite number of at least 0"
            ));
        }
    }
    let total: f64 = rows.iter().map(|(_, probability)| probability).sum();
    if total > 0.0 && total.is_finite() {
        return Ok(());
    }
    invalid(format!("the probabilities of the λ table sum to {total}: give at least one row a probability above 0"))
}

/// Checks a given λ and scales it to sum to 1.
fn normalize_weights(weights: &mut [f64], num_dimensions: usize, what: &str) -> Result<()> {
    if weights.len() != num_dimensions {
        return invalid(format!(
            "{what} are {} numbers, but there are {num_dimensions} dimensions: give one weight for each",
            weights.len()
        ));
    }
    if let Some((k, weight)) = weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
        return invalid(format!(
            "{what} have {weight} at dimension {k}, but each must be a finite number of at least 0"
        ));
    }
    let sum: f64 = weights.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return invalid(format!(
            "{what} sum to {sum}, which misses 1 by more than {SUM_TOLERANCE}: scale them so that they sum to 1"
        ));
    }
    weights.iter_mut().for_each(|w| *w /= sum);
    Ok(())
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidArgument(message))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn schedule(kind: ScheduleKind, num_dimensions: usize) -> Schedule {
        Schedule::new(ScheduleOptions { kind, num_dimensions }).unwrap()
    }

    fn message(kind: ScheduleKind, num_dimensions: usize) -> String {
        Schedule::new(ScheduleOptions { kind, num_dimensions }).unwrap_err().to_string()
    }

    fn random_kinds() -> Vec<ScheduleKind> {
        vec![
            ScheduleKind::UniformNormalized,
            ScheduleKind::Dirichlet { alpha: 1.0 },
            ScheduleKind::Dirichlet { alpha: 0.4 },
            ScheduleKind::Gaussian,
            ScheduleKind::GaussianAbs,
        ]
    }

    #[test]
    fn draws_are_pure_and_differ_with_every_argument() {
        for kind in random_kinds() {
            let schedule = schedule(kind, 4);
            let first = schedule.draw_instance(7, 1, 2);
            assert_eq!(first, schedule.draw_instance(7, 1, 2));
            for other in [(8, 1, 2), (7, 2, 2), (7, 1, 3), (7, 2, 1)] {
                assert_ne!(first, schedule.draw_instance(other.0, other.1, other.2));
            }
            assert_eq!(schedule.draw_step(7, 5), schedule.draw_step(7, 5));
            assert_ne!(schedule.draw_step(7, 0), schedule.draw_instance(7, 0, 0));
        }
    }

    #[test]
    fn draws_lie_on_the_simplex_with_mean_one_mth() {
        const DRAWS: u64 = 20_000;
        for kind in random_kinds() {
            let name = format!("{kind:?}");
            let schedule = schedule(kind, 3);
            let mut mean = [0.0; 3];
            for record in 0..DRAWS {
                let lambda = schedule.draw_instance(42, 0, record);
                assert!((lambda.iter().sum::<f64>() - 1.0).abs() < 1e-12 && lambda.iter().all(|w| *w >= 0.0), "{name}");
                mean.iter_mut().zip(&lambda).for_each(|(m, w)| *m += w / DRAWS as f64);
            }
            assert!(mean.iter().all(|m| (m - 1.0 / 3.0).abs() < 0.01), "{name}: {mean:?}");
        }
    }

    /// Var λ_k = (1/M)(1 − 1/M) / (Mα + 1).
    #[test]
    fn the_dirichlet_distribution_has_its_variance() {
        const DRAWS: u64 = 20_000;
        for alpha in [0.1, 1.0, 5.0] {
            let schedule = schedule(ScheduleKind::Dirichlet { alpha }, 4);
            let variance = (0..DRAWS)
                .map(|record| (schedule.draw_instance(1, 0, record)[0] - 0.25).powi(2) / DRAWS as f64)
                .sum::<f64>();
            let expected = 0.25 * 0.75 / (4.0 * alpha + 1.0);
            assert!((variance / expected - 1.0).abs() < 0.05, "alpha {alpha}: {variance} against {expected}");
        }
    }

    #[test]
    fn extreme_alphas_stay_finite() {
        for alpha in [f64::MIN_POSITIVE, 1e-300, 1e-3, 1e3, MAX_ALPHA] {
            let schedule = schedule(ScheduleKind::Dirichlet { alpha }, 4);
            for record in 0..200 {
                let lambda = schedule.draw_instance(3, 0, record);
                assert!((lambda.iter().sum::<f64>() - 1.0).abs() < 1e-12, "alpha {alpha}: {lambda:?}");
            }
        }
    }

    #[test]
    fn one_hot_schedules_cycle() {
        let fixed = schedule(ScheduleKind::Unimodal { dimension: 2 }, 3);
        assert_eq!(fixed.draw_instance(0, 5, 9), [0.0, 0.0, 1.0]);
        let cycle = schedule(ScheduleKind::UnimodalCycle, 3);
        assert_eq!(cycle.draw_instance(0, 0, 4), [0.0, 1.0, 0.0]);
        assert_eq!(cycle.draw_instance(0, 1, 4), [0.0, 0.0, 1.0]);
        // 2^64 − 1 is divisible by 3.
        assert_eq!(cycle.draw_instance(0, u64::MAX, u64::MAX), [1.0, 0.0, 0.0]);
        assert_eq!(cycle.draw_step(0, 5), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn table_rows_come_as_often_as_their_probability_says() {
        let rows = vec![(vec![1.0, 0.0], 3.0), (vec![0.5, 0.5], 0.0), (vec![0.0, 1.0], 1.0)];
        let schedule = schedule(ScheduleKind::Table { rows }, 2);
        let draws: Vec<_> = (0..8000).map(|record| schedule.draw_instance(5, 0, record)[0]).collect();
        assert!(draws.iter().all(|w| *w != 0.5));
        let share = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((share - 0.75).abs() < 0.02, "{share}");
    }

    #[test]
    fn weights_are_renormalised() {
        let schedule = schedule(ScheduleKind::Fixed { weights: vec![0.3335, 0.667] }, 2);
        let lambda = schedule.draw_step(0, 0);
        assert!((lambda[0] - 0.3335 / 1.0005).abs() < 1e-15 && (lambda.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    }

    #[test]
    fn bad_options_are_errors() {
        let fixed = |weights: &[f64]| ScheduleKind::Fixed { weights: weights.to_vec() };
        assert_eq!(
            message(fixed(&[0.5, 0.7]), 2),
            "the weights of λ sum to 1.2, which misses 1 by more than 0.001: scale them so that they sum to 1"
        );
        assert_eq!(
            message(fixed(&[1.0]), 2),
            "the weights of λ are 1 numbers, but there are 2 dimensions: give one weight for each"
        );
        assert!(message(fixed(&[1.5, -0.5]), 2).contains("-0.5 at dimension 1"));
        assert!(message(fixed(&[f64::NAN, 1.0]), 2).contains("NaN at dimension 0"));
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(message(ScheduleKind::Dirichlet { alpha }, 2).contains("must be above 0"), "{alpha}");
        }
        assert!(message(ScheduleKind::Unimodal { dimension: 2 }, 2).contains("asks for dimension 2"));
        assert!(message(ScheduleKind::Gaussian, 0).contains("at least one preference dimension"));
        assert!(message(ScheduleKind::Table { rows: vec![] }, 1).contains("no rows"));
        let rows = vec![(vec![1.0], 0.0)];
        assert!(message(ScheduleKind::Table { rows }, 1).contains("sum to 0"));
    }

    /// A change of these values changes every run's λ: it is a change of numerics, to be marked in CHANGELOG.
    #[test]
    fn draws_are_pinned() {
        let pinned: [(ScheduleKind, [f64; 3]); 4] = [
            (ScheduleKind::UniformNormalized, [0.4984810325976835, 0.3748851038644282, 0.12663386353788825]),
            (ScheduleKind::Dirichlet { alpha: 0.4 }, [0.061457399755812714, 9.862216632068686e-5, 0.9384439780778665]),
            (ScheduleKind::Gaussian, [0.37986418820217543, 0.5011443519695687, 0.11899145982825578]),
            (ScheduleKind::GaussianAbs, [0.3555671350265605, 0.4797530032665986, 0.16467986170684085]),
        ];
        let mut wrong = Vec::new();
        for (kind, expected) in pinned {
            let drawn = schedule(kind.clone(), 3).draw_instance(42, 1, 7);
            // The last bits depend on the platform's log and exp.
            if drawn.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-14) {
                wrong.push((kind, drawn));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
