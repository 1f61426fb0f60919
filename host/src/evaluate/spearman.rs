//! Spearman's rank correlation.

use super::estimate::Estimate;

/// Groups that the jackknife leaves out in turn, at most.
const MAX_GROUPS: usize = 100;

/// Returns the rank correlation of pairs (x, y), which come in groups that were drawn independently, such as the responses
/// of each record; None if all x or all y are equal.
///
/// # Equation
///
/// Pearson's correlation of the ranks, where equal values share their mean rank. The standard error is the grouped
/// jackknife's, √((G − 1) / G Σ_g (ρ₋g − ρ̄)²), where ρ₋g leaves out every G-th group from the g-th on, and G is the number of
/// groups, or 100 if there are more.
pub fn spearman(groups: &[Vec<(f64, f64)>]) -> Option<Estimate> {
    let all: Vec<(f64, f64)> = groups.iter().flatten().copied().collect();
    let mean = correlation(&all)?;
    let num_parts = groups.len().min(MAX_GROUPS);
    let without = |part: usize| {
        let kept = (0..).zip(groups).filter(|(index, _)| index % num_parts != part).flat_map(|(_, group)| group);
        correlation(&kept.copied().collect::<Vec<_>>())
    };
    let parts: Option<Vec<f64>> = (0..num_parts).map(without).collect();
    let stderr = parts.map(|parts| {
        let count = parts.len() as f64;
        let center = parts.iter().sum::<f64>() / count;
        ((count - 1.0) / count * parts.iter().map(|rho| (rho - center).powi(2)).sum::<f64>()).sqrt()
    });
    Some(Estimate { mean, stderr: stderr.filter(|_| num_parts > 1) })
}

fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let x = ranks(pairs.iter().map(|pair| pair.0).collect());
    let y = ranks(pairs.iter().map(|pair| pair.1).collect());
    let center = (pairs.len() as f64 + 1.0) / 2.0;
    let product = |left: &[f64], right: &[f64]| -> f64 {
        left.iter().zip(right).map(|(left, right)| (left - center) * (right - center)).sum()
    };
    let scale = (product(&x, &x) * product(&y, &y)).sqrt();
    (scale > 0.0).then(|| product(&x, &y) / scale)
}

/// Returns the ranks of values from 1; equal ones share their mean rank.
fn ranks(values: Vec<f64>) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&left, &right| values[left] == values[right]) {
        let rank = first as f64 + (equal.len() as f64 + 1.0) / 2.0;
        equal.iter().for_each(|&index| ranks[index] = rank);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(ranks(vec![3.0, 1.0, 3.0, -2.0, 3.0]), [4.0, 2.0, 4.0, 1.0, 4.0]);
        assert!(ranks(Vec::new()).is_empty());
    }

    #[test]
    fn order_alone_counts() {
        let rising: Vec<Vec<(f64, f64)>> = (0..6).map(|x| vec![(f64::from(x), f64::from(x).exp())]).collect();
        let found = spearman(&rising).unwrap();
        assert!((found.mean - 1.0).abs() < 1e-15 && found.stderr.unwrap() < 1e-12, "{found:?}");
        let falling: Vec<Vec<(f64, f64)>> = rising.iter().map(|group| vec![(group[0].0, -group[0].1)]).collect();
        assert!((spearman(&falling).unwrap().mean + 1.0).abs() < 1e-15);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(spearman(&[vec![(1.0, 2.0), (1.0, 3.0)]]), None);
        assert_eq!(spearman(&[]), None);
        assert_eq!(spearman(&[vec![(1.0, 2.0), (2.0, 3.0)]]).unwrap().stderr, None);
    }
}
