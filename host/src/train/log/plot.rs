//! `loss.svg`: training and evaluation loss over steps.

use plotters::prelude::*;

const SIZE: (u32, u32) = (960, 540);
/// More points than there are pixels would only make the file larger.
const MAX_POINTS: usize = 1000;
/// Weight of the past in the moving average over the drawn points.
const SMOOTHING: f64 = 0.9;
const TRAIN: RGBColor = RGBColor(31, 119, 180);
const EVAL: RGBColor = RGBColor(214, 39, 40);

/// Draws training and evaluation losses, given as (step, loss).
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn loss_svg(title: &str, train: &[(u64, f64)], eval: &[(u64, f64)]) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, title, train, eval).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(
    svg: &mut String,
    title: &str,
    train: &[(u64, f64)],
    eval: &[(u64, f64)],
) -> Result<(), Box<dyn std::error::Error>> {
    let train = thin(train);
    let eval = thin(eval);
    let (steps, losses) = ranges(train.iter().chain(&eval));
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(steps, losses)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .y_desc("loss")
        .label_style(("sans-serif", 14))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series(LineSeries::new(train.iter().copied(), TRAIN.mix(0.3).stroke_width(1)))?;
    chart
        .draw_series(LineSeries::new(smooth(&train), TRAIN.stroke_width(2)))?
        .label("training loss, raw and smoothed")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRAIN.stroke_width(2)));
    if !eval.is_empty() {
        chart
            .draw_series(LineSeries::new(eval.iter().copied(), EVAL.stroke_width(2)))?
            .label("evaluation loss")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], EVAL.stroke_width(2)));
        chart.draw_series(eval.iter().map(|point| Circle::new(*point, 4, EVAL.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

/// Averages stretches of equal length, so that at most [`MAX_POINTS`] are left.
fn thin(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let stretch = points.len().div_ceil(MAX_POINTS).max(1);
    let mean = |chunk: &[(u64, f64)]| {
        let count = chunk.len() as f64;
        let sums = chunk.iter().fold((0.0, 0.0), |sum, (step, loss)| (sum.0 + *step as f64, sum.1 + loss));
        (sums.0 / count, sums.1 / count)
    };
    points.chunks(stretch).map(mean).collect()
}

/// Returns the exponential moving average, with bias correction at the start.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (mut sum, mut weight) = (0.0, 0.0);
    let average = |(step, loss): &(f64, f64)| {
        sum = SMOOTHING * sum + (1.0 - SMOOTHING) * loss;
        weight = SMOOTHING * weight + (1.0 - SMOOTHING);
        (*step, sum / weight)
    };
    points.iter().map(average).collect()
}

/// Returns the ranges of the axes: the steps, and a little more than the losses.
fn ranges<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    let mut low = (f64::INFINITY, f64::INFINITY);
    let mut high = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (step, loss) in points.filter(|(_, loss)| loss.is_finite()) {
        low = (low.0.min(*step), low.1.min(*loss));
        high = (high.0.max(*step), high.1.max(*loss));
    }
    if low.0 > high.0 {
        return (0.0..1.0, 0.0..1.0);
    }
    let margin = ((high.1 - low.1) * 0.05).max(1e-3 * high.1.abs()).max(1e-6);
    (low.0..high.0.max(low.0 + 1.0), low.1 - margin..high.1 + margin)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_plot_names_its_axes_and_curves() {
        let train: Vec<_> = (1..=3000).map(|step| (step, 1.0 / step as f64)).collect();
        let svg = loss_svg("runs/demo", &train, &[(0, 1.0), (3000, 0.1)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        for text in ["runs/demo", "step", "training loss", "evaluation loss"] {
            assert!(svg.contains(text), "{text}");
        }
        assert!(svg.len() < 100_000, "{}", svg.len());
    }

    #[test]
    fn the_average_starts_at_the_first_loss_and_forgets() {
        assert_eq!(smooth(&[(1.0, 3.0)]), [(1.0, 3.0)]);
        // (0.9 · 0.1 · 1 + 0.1 · 2) / (0.9 · 0.1 + 0.1)
        let (step, loss) = smooth(&[(1.0, 1.0), (2.0, 2.0)])[1];
        assert_eq!(step, 2.0);
        assert!((loss - 0.29 / 0.19).abs() < 1e-12, "{loss}");
    }

    #[test]
    fn nothing_to_draw_is_no_error() {
        loss_svg("empty", &[], &[]).unwrap();
        loss_svg("one", &[(1, 2.0)], &[]).unwrap();
    }
}
