//! Lines through points.

use std::ops::Range;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::canvas::{self, Area, Drawn, Entry, TEXT};
use super::labels::{Labels, span, tick};
use super::pen::Pen;

const HEIGHT: u32 = 340;
const DASH: u32 = 7;

/// The points of one name in a plot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y)
    pub points: Vec<(f64, f64)>,
    /// Extent of the band around the line: (x, low, high); empty without a band.
    pub band: Vec<(f64, f64, f64)>,
}

/// Draws a line through each series' points, and the points.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn curves(labels: &Labels, series: &[Series]) -> Result<String, String> {
    draw(labels, series, &Style { line: <[_]>::to_vec, marks_points: true })
}

/// Draws the points of each series, and a line through its Pareto front.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn front(labels: &Labels, series: &[Series]) -> Result<String, String> {
    draw(labels, series, &Style { line: pareto_front, marks_points: true })
}

/// Draws a line through each series' many points, and its band.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn lines(labels: &Labels, series: &[Series]) -> Result<String, String> {
    draw(labels, series, &Style { line: <[_]>::to_vec, marks_points: false })
}

/// Selects the points of a series that its line connects.
type Connected = fn(&[(f64, f64)]) -> Vec<(f64, f64)>;

struct Style {
    line: Connected,
    marks_points: bool,
}

/// Returns the points that no other point exceeds in one coordinate and equals or exceeds in the other, from left to
/// right.
fn pareto_front(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|left, right| right.0.total_cmp(&left.0).then(right.1.total_cmp(&left.1)));
    let mut highest = f64::NEG_INFINITY;
    sorted.retain(|(_, y)| {
        let leads = *y > highest;
        highest = highest.max(*y);
        leads
    });
    sorted.reverse();
    sorted
}

fn draw(labels: &Labels, series: &[Series], style: &Style) -> Result<String, String> {
    let entries: Vec<Entry> =
        series.iter().enumerate().map(|(index, series)| Entry { name: &series.name, pen: Pen::of(index) }).collect();
    canvas::draw(HEIGHT, &entries, |area| draw_on(area, labels, series, style))
}

/// Returns the ranges of x and y that hold all points and bands.
fn ranges(series: &[Series]) -> (Range<f64>, Range<f64>) {
    let points = || series.iter().flat_map(|series| &series.points);
    let band = series.iter().flat_map(|series| &series.band).flat_map(|(_, low, high)| [*low, *high]);
    (span(points().map(|point| point.0)), span(points().map(|point| point.1).chain(band)))
}

fn draw_on(area: &Area, labels: &Labels, series: &[Series], style: &Style) -> Drawn {
    let (x, y) = ranges(series);
    let mut chart = ChartBuilder::on(area)
        .caption(labels.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(66)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|value| tick(*value))
        .label_style(("sans-serif", TEXT))
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    // Bands first, so that they cover no line.
    let num_bands = series.iter().filter(|series| !series.band.is_empty()).count();
    let opacity = if num_bands > 4 { 0.08 } else { 0.18 };
    for (index, series) in series.iter().enumerate().filter(|(_, series)| !series.band.is_empty()) {
        let upper = series.band.iter().map(|(x, _, high)| (*x, *high));
        let lower = series.band.iter().rev().map(|(x, low, _)| (*x, *low));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        chart.draw_series([Polygon::new(outline, Pen::of(index).colour.mix(opacity))])?;
    }
    for (index, series) in series.iter().enumerate() {
        draw_line(&mut chart, (style.line)(&series.points), Pen::of(index))?;
        if style.marks_points {
            draw_points(&mut chart, &series.points, Pen::of(index))?;
        }
    }
    Ok(())
}

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_line(chart: &mut Chart, points: Vec<(f64, f64)>, pen: Pen) -> Drawn {
    let stroke = pen.colour.stroke_width(2);
    if pen.dashed {
        chart.draw_series(DashedLineSeries::new(points, DASH, DASH - 2, stroke))?;
    } else {
        chart.draw_series(LineSeries::new(points, stroke))?;
    }
    Ok(())
}

fn draw_points(chart: &mut Chart, points: &[(f64, f64)], pen: Pen) -> Drawn {
    if pen.dashed {
        chart.draw_series(points.iter().map(|point| TriangleMarker::new(*point, 5, pen.colour.filled())))?;
    } else {
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, pen.colour.filled())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_front_leaves_out_what_is_beaten() {
        let points = [(1.0, 5.0), (2.0, 2.0), (3.0, 4.0), (5.0, 1.0), (3.0, 3.0)];
        assert_eq!(pareto_front(&points), [(1.0, 5.0), (3.0, 4.0), (5.0, 1.0)]);
        assert!(pareto_front(&[]).is_empty());
    }

    #[test]
    fn plots_name_axes_and_series() {
        let labels = Labels { title: "honesty", x: "λ of honesty", y: "score" };
        let band = vec![(0.0, 0.5, 1.5), (1.0, 1.0, 3.0)];
        let series = [Series { name: "adapter".into(), points: vec![(0.0, 1.0), (1.0, 2.0)], band }];
        for draw in [curves, front, lines] {
            let svg = draw(&labels, &series).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            for text in ["honesty", "λ of honesty", "score", "adapter", "<polygon"] {
                assert!(svg.contains(text), "{text}");
            }
            draw(&labels, &[]).unwrap();
        }
    }

    #[test]
    fn the_legend_is_below_the_points() {
        let series: Vec<Series> = (0..14)
            .map(|index| Series {
                name: format!("run {index}"),
                points: vec![(0.0, f64::from(index)), (1.0, 0.0)],
                ..Series::default()
            })
            .collect();
        let svg = curves(&Labels { title: "t", x: "x", y: "y" }, &series).unwrap();
        let height = |text: &str| {
            let before = &svg[..svg.find(text).unwrap()];
            let y = &before[before.rfind(" y=\"").unwrap() + 4..];
            y[..y.find('"').unwrap()].parse::<u32>().unwrap()
        };
        for name in 0..14 {
            assert!(height(&format!("\nrun {name}\n")) > HEIGHT, "run {name}");
        }
    }
}
