//! The order of a sample's responses in each dimension.

use std::collections::BTreeSet;

use ndarray::{Array2, ArrayView1};

/// Returns `[M, N]` places of the responses in each dimension: 1 is best, equal ones tie, the next place is one more,
/// and masked responses (a target of NaN) have 0.
///
/// The order is that of the ratings if every response that is not masked has one, else that of the targets. Only
/// ratings have the whole order: a softmax of ratings that lie far apart is 0 for several of them.
pub(super) fn ranks(pi_target: &Array2<f64>, ratings: Option<&Array2<f64>>) -> Array2<i64> {
    let mut ranks = Array2::zeros(pi_target.dim());
    for (k, targets) in pi_target.rows().into_iter().enumerate() {
        let is_masked = |i: usize| targets[i].is_nan();
        let by_rating = ratings.map(|ratings| ratings.row(k));
        let has_all = |ratings: &ArrayView1<f64>| (0..targets.len()).all(|i| is_masked(i) || ratings[i].is_finite());
        let scores = by_rating.filter(has_all).unwrap_or(targets);
        let kept: Vec<usize> = (0..targets.len()).filter(|&i| !is_masked(i)).collect();
        let places = dense_ranks(&kept.iter().map(|&i| scores[i]).collect::<Vec<_>>());
        kept.into_iter().zip(places).for_each(|(i, place)| ranks[[k, i]] = place);
    }
    ranks
}

/// Returns the place of each score: 1 is the highest, equal ones tie, and the next place is one more.
pub(crate) fn dense_ranks(scores: &[f64]) -> Vec<i64> {
    let mut places = scores.to_vec();
    places.sort_by(|a, b| b.total_cmp(a));
    places.dedup();
    scores.iter().map(|score| 1 + places.partition_point(|place| place > score) as i64).collect()
}

/// Returns the first number from 1 on that is not among the places, if one beyond it is, or one below 1.
pub(super) fn missing_place(places: impl Iterator<Item = i64>) -> Option<i64> {
    let places: BTreeSet<i64> = places.collect();
    (1..).zip(&places).find(|(expected, place)| expected != *place).map(|(expected, _)| expected)
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn the_order_is_that_of_the_ratings() {
        let targets = array![[0.7, 0.1, 0.1, 0.1], [NAN, 0.5, 0.5, 0.0]];
        let ratings = array![[5.0, 1.0, 2.0, 1.0], [9.0, 4.0, 4.0, -1.0]];
        assert_eq!(ranks(&targets, Some(&ratings)), array![[1, 3, 2, 3], [0, 1, 1, 2]]);
    }

    #[test]
    fn ratings_whose_targets_are_0_are_still_ordered() {
        let targets = array![[1.0, 0.0, 0.0]];
        assert_eq!(ranks(&targets, Some(&array![[2000.0, 1000.0, 0.0]])), array![[1, 2, 3]]);
        assert_eq!(ranks(&targets, None), array![[1, 2, 2]]);
    }

    #[test]
    fn without_a_rating_of_each_response_the_order_is_that_of_the_targets() {
        let targets = array![[0.2, 0.5, 0.3], [0.2, NAN, 0.8]];
        let ratings = array![[9.0, NAN, 1.0], [3.0, NAN, 1.0]];
        assert_eq!(ranks(&targets, Some(&ratings)), array![[3, 1, 2], [1, 0, 2]]);
    }

    #[test]
    fn what_is_masked_has_no_rank() {
        assert_eq!(ranks(&array![[NAN, NAN]], Some(&array![[1.0, 2.0]])), array![[0, 0]]);
        assert_eq!(ranks(&Array2::zeros((0, 1)), None).dim(), (0, 1));
        assert_eq!(ranks(&array![[0.5, 0.5]], Some(&array![[0.0, -0.0]])), array![[1, 1]]);
    }

    #[test]
    fn a_missing_place_is_found() {
        let missing = |places: &[i64]| missing_place(places.iter().copied());
        assert_eq!([missing(&[2, 1, 2, 3]), missing(&[]), missing(&[1])], [None; 3]);
        assert_eq!([missing(&[1, 3]), missing(&[2]), missing(&[-1, 1])], [Some(2), Some(1), Some(1)]);
    }
}
