//! Line plots as SVG.

use std::collections::BTreeMap;
use std::io::{Read as _, stdin};
use std::path::Path;

use anyhow::{Result, ensure};
use plotters::prelude::*;
use serde::Deserialize;

const SIZE: (u32, u32) = (800, 450);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// Description of a plot, read as JSON from standard input.
#[derive(Deserialize)]
struct Plot {
    title: String,
    x: String,
    y: String,
    /// Points by the name of their line.
    series: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Draws the plot described on standard input into `out`; both axes start at 0.
///
/// # Errors
///
/// Returns an error if the description does not parse or has no points, or if `out` cannot be written.
pub fn run(out: &Path) -> Result<()> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    let plot: Plot = serde_json::from_str(&text)?;
    let largest = |of: fn(&(f64, f64)) -> f64| plot.series.values().flatten().map(of).fold(0.0, f64::max);
    let (x_max, y_max) = (largest(|point| point.0), largest(|point| point.1));
    ensure!(x_max > 0.0 && y_max > 0.0, "there is nothing to plot: every point lies on an axis, or there are none");

    let root = SVGBackend::new(out, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(&plot.title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..x_max * 1.05, 0.0..y_max * 1.05)?;
    chart
        .configure_mesh()
        .x_desc(&plot.x)
        .y_desc(&plot.y)
        .label_style(("sans-serif", 14))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    for ((name, points), colour) in plot.series.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}
