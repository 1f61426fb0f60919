//! The course of the training, row by row.

use std::collections::BTreeMap;

use crate::plot::{self, Labels, Series};

use super::comparison::Comparison;
use super::metrics::Metrics;
use super::spread::{RunValue, Spread};

/// Points of a line, at most: steps are averaged, because those of a training vary from one to the next.
const MAX_POINTS: usize = 60;

/// A curve: its metric, title, axis, and what to multiply values by.
const CURVES: [(&str, &str, &str, f64); 4] = [
    ("loss", "Training loss", "loss, in nats", 1.0),
    ("rewards/accuracies", "Training reward accuracy", "accuracy, in %", 100.0),
    ("eval_loss", "Evaluation loss", "loss, in nats", 1.0),
    ("eval_rewards/accuracies", "Evaluation reward accuracy", "accuracy, in %", 100.0),
];

/// Draws each metric of the training that at least one row has a curve of: SVG, and how to read it.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub(super) fn plots(comparison: &Comparison) -> Result<Vec<(String, String)>, String> {
    let mut plots = Vec::new();
    for (key, title, y, scale) in CURVES {
        let curves: Vec<Vec<Vec<(u64, f64)>>> =
            comparison.logs.iter().map(|logs| logs.iter().map(|log: &Metrics| log.curve(key)).collect()).collect();
        let all = || curves.iter().flatten();
        if !all().any(|curve| curve.len() > 1) {
            continue;
        }
        let last_step = all().flatten().map(|(step, _)| *step).max().unwrap_or(0);
        let most = all().map(Vec::len).max().unwrap_or(0);
        // Every step has a bin of its own if there are few.
        let width = if most > MAX_POINTS { last_step.div_ceil(MAX_POINTS as u64) } else { 1 };
        let mut series = Vec::new();
        for (row, curves) in comparison.report.rows.iter().zip(&curves) {
            let (points, band) = line(curves, width, scale);
            if !points.is_empty() {
                series.push(Series { name: row.title(), points, band });
            }
        }
        let svg = plot::lines(&Labels { title, x: "optimiser step", y }, &series)?;
        let averaged =
            if width > 1 { format!("Each point is a mean over up to {width} steps. ") } else { String::new() };
        let band = if series.iter().any(|series| !series.band.is_empty()) {
            "Bands: one standard deviation over runs."
        } else {
            ""
        };
        let loss = if key == "loss" { "Losses of different objectives cannot be compared. " } else { "" };
        plots.push((svg, format!("{loss}{averaged}{band}").trim().to_owned()));
    }
    Ok(plots)
}

/// Points of a line, and its band.
type Line = (Vec<(f64, f64)>, Vec<(f64, f64, f64)>);

/// Averages the runs' curves in bins of a width, in steps: first each run's values, then the runs.
fn line(curves: &[Vec<(u64, f64)>], width: u64, scale: f64) -> Line {
    let mut bins: BTreeMap<u64, Vec<RunValue>> = BTreeMap::new();
    let mut places: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for curve in curves {
        let mut own: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (step, value) in curve {
            let bin = step.saturating_sub(1) / width;
            for (sums, term) in [(&mut own, *value * scale), (&mut places, *step as f64)] {
                let (sum, count) = sums.entry(bin).or_default();
                (*sum, *count) = (*sum + term, *count + 1.0);
            }
        }
        for (bin, (sum, count)) in own {
            bins.entry(bin).or_default().push(Some((sum / count, None)));
        }
    }
    let (mut points, mut band) = (Vec::new(), Vec::new());
    for (bin, values) in bins {
        let Some(Spread { mean, stddev, .. }) = Spread::of(&values) else { continue };
        let x = places.get(&bin).map_or(0.0, |(sum, count)| sum / count);
        points.push((x, mean));
        band.extend(stddev.map(|stddev| (x, mean - stddev, mean + stddev)));
    }
    (points, band)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_mean_over_runs_and_its_band_their_spread() {
        let curves = [vec![(10, 1.0), (20, 2.0), (30, 5.0)], vec![(10, 3.0), (20, 2.0)]];
        let (points, band) = line(&curves, 1, 1.0);
        assert_eq!(points, [(10.0, 2.0), (20.0, 2.0), (30.0, 5.0)]);
        let spread = 2.0_f64.sqrt();
        assert_eq!(band, [(10.0, 2.0 - spread, 2.0 + spread), (20.0, 2.0, 2.0)]);
    }

    #[test]
    fn many_steps_are_averaged() {
        let curve: Vec<(u64, f64)> = (1..=100).map(|step| (step, step as f64)).collect();
        let (points, band) = line(&[curve], 10, 2.0);
        assert_eq!((points.len(), points[0], points[9]), (10, (5.5, 11.0), (95.5, 191.0)));
        assert!(band.is_empty());
    }
}
