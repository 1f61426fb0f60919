//! Plots as SVG: curves, and Pareto fronts.

use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (560, 400);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(90, 90, 90),
];

/// The points of one name in a plot.
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y)
    pub points: Vec<(f64, f64)>,
}

/// Title and axis labels of a plot.
pub struct Labels<'a> {
    /// Title above the plot.
    pub title: &'a str,
    /// Label of the x axis.
    pub x: &'a str,
    /// Label of the y axis.
    pub y: &'a str,
}

/// Draws a line through each series' points.
pub fn curves(labels: &Labels, series: &[Series]) -> Result<String, String> {
    draw(labels, series, |points| points.to_vec())
}

/// Draws the points of each series, and a line through its Pareto front.
pub fn front(labels: &Labels, series: &[Series]) -> Result<String, String> {
    draw(labels, series, pareto_front)
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

/// Selects the points of a series that its line connects.
type Line = fn(&[(f64, f64)]) -> Vec<(f64, f64)>;

fn draw(labels: &Labels, series: &[Series], line: Line) -> Result<String, String> {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    draw_on(&root, labels, series, line).map_err(|error| error.to_string())?;
    drop(root);
    Ok(svg)
}

fn draw_on(
    root: &DrawingArea<SVGBackend, Shift>,
    labels: &Labels,
    series: &[Series],
    line: Line,
) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let all = || series.iter().flat_map(|series| &series.points);
    let mut chart = ChartBuilder::on(root)
        .caption(labels.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(span(all().map(|point| point.0)), span(all().map(|point| point.1)))?;
    chart
        .configure_mesh()
        .x_desc(labels.x)
        .y_desc(labels.y)
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(line(&series.points), colour.stroke_width(2)))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 13))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Returns a range a little wider than the values.
fn span(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.06).max(1e-3);
    low - margin..high + margin
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
        let series = [Series { name: "this".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] }];
        for svg in [curves(&labels, &series).unwrap(), front(&labels, &series).unwrap()] {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            for text in ["honesty", "λ of honesty", "score", "this"] {
                assert!(svg.contains(text), "{text}");
            }
        }
        curves(&labels, &[]).unwrap();
    }
}
