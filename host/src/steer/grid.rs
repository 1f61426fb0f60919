//! The λ at which a control report measures.

use serde::{Deserialize, Serialize};

/// Points on the simplex, and the curve of each dimension through them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// λ `[M]` of each point, without duplicates.
    pub points: Vec<Vec<f64>>,
    /// For each dimension k, the indices of the points with λ_k = 0, 1/steps, …, 1 and the rest equal; the last is a
    /// corner.
    pub curves: Vec<Vec<usize>>,
}

impl Grid {
    /// Makes the grid in which each dimension goes from 0 to 1 in `num_steps` steps, with the rest equal.
    pub fn new(num_dimensions: usize, num_steps: usize) -> Self {
        let mut grid = Self { points: Vec::new(), curves: Vec::new() };
        // With one dimension there is only one λ.
        let num_steps = if num_dimensions == 1 { 0 } else { num_steps.max(1) };
        for dimension in 0..num_dimensions {
            let curve = (0..=num_steps).map(|step| {
                let own = if num_steps == 0 { 1.0 } else { step as f64 / num_steps as f64 };
                let rest = (1.0 - own) / (num_dimensions.max(2) - 1) as f64;
                let mut point = vec![rest; num_dimensions];
                point[dimension] = own;
                grid.index_of(point)
            });
            let curve = curve.collect();
            grid.curves.push(curve);
        }
        grid
    }

    /// Returns the index of a point, which is added if it is new.
    fn index_of(&mut self, point: Vec<f64>) -> usize {
        let same = |other: &Vec<f64>| other.iter().zip(&point).all(|(left, right)| (left - right).abs() < 1e-9);
        self.points.iter().position(same).unwrap_or_else(|| {
            self.points.push(point);
            self.points.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_share_their_common_points() {
        let grid = Grid::new(4, 4);
        // Each curve has five points, and all four share the middle of the simplex.
        assert_eq!(grid.points.len(), 4 * 5 - 3);
        for (dimension, curve) in grid.curves.iter().enumerate() {
            let own: Vec<f64> = curve.iter().map(|&point| grid.points[point][dimension]).collect();
            assert_eq!(own, [0.0, 0.25, 0.5, 0.75, 1.0]);
        }
        assert!(grid.points.iter().all(|point| (point.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    }

    #[test]
    fn two_dimensions_are_one_curve_seen_from_both_ends() {
        let grid = Grid::new(2, 2);
        assert_eq!(grid.points, [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        assert_eq!(grid.curves, [[0, 1, 2], [2, 1, 0]]);
        assert_eq!(Grid::new(1, 4), Grid { points: vec![vec![1.0]], curves: vec![vec![0]] });
    }
}
