//! Bars with names, from left to right.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{self, Area, Drawn, Entry, TEXT, WIDTH, shortened, text_width};
use super::labels::{Labels, tick};
use super::pen::Pen;

/// Height of a bar, in pixels.
const BAR: i32 = 18;
/// Between the bars of two names.
const GAP: i32 = 12;
const TITLE: i32 = 34;
const AXIS: i32 = 54;
/// Names take up to this much of the width.
const MAX_NAMES: i32 = 260;

/// A bar.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Where it ends; it begins at 0.
    pub value: f64,
    /// The value as it is written beside the bar.
    pub text: String,
    /// Ends of the error bar.
    pub error: Option<(f64, f64)>,
}

/// One bar for each name of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Bars {
    /// Name in the legend, which a plot with a single series does not have.
    pub name: String,
    /// In the order of the names; None where nothing was measured.
    pub bars: Vec<Option<Bar>>,
}

/// Draws the bars of each series beside each name, and a line at `mark`, if there is one.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub fn bars(labels: &Labels, names: &[String], series: &[Bars], mark: Option<f64>) -> Result<String, String> {
    let named = if series.len() > 1 { series } else { &[] };
    let entries: Vec<Entry> =
        named.iter().enumerate().map(|(index, series)| Entry { name: &series.name, pen: Pen::of(index) }).collect();
    let rows = names.len().max(1) as i32 * (BAR * series.len().max(1) as i32 + GAP);
    canvas::draw((TITLE + rows + AXIS) as u32, &entries, |area| draw_on(area, labels, names, series, mark))
}

/// Returns the range of the values: from 0, with room for the text beside the longest bar.
fn range(series: &[Bars], mark: Option<f64>, plot_width: i32) -> std::ops::Range<f64> {
    let bars = || series.iter().flat_map(|series| &series.bars).flatten();
    let ends = bars().flat_map(|bar| {
        let (low, high) = bar.error.unwrap_or((bar.value, bar.value));
        [bar.value, low, high]
    });
    let all = ends.chain(mark).filter(|value| value.is_finite());
    let (low, high) = all.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    let width = if high > low { high - low } else { 1.0 };
    let text = bars().map(|bar| text_width(&bar.text)).max().unwrap_or(0) + 12;
    let room = width * (f64::from(text) / f64::from((plot_width - text).max(text)));
    let below = if low < 0.0 { room } else { 0.0 };
    low - below..high.max(low + width) + room
}

fn draw_on(area: &Area, labels: &Labels, names: &[String], series: &[Bars], mark: Option<f64>) -> Drawn {
    let names: Vec<String> = names.iter().map(|name| shortened(name, MAX_NAMES)).collect();
    let name_width = names.iter().map(|name| text_width(name)).max().unwrap_or(0) + 32;
    let values = range(series, mark, WIDTH as i32 - name_width - 24);
    let mut chart = ChartBuilder::on(area)
        .caption(labels.title, ("sans-serif", 17))
        .margin(12)
        .margin_top(4)
        .x_label_area_size(42)
        .y_label_area_size(name_width)
        .build_cartesian_2d(values.clone(), names.len().max(1) as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc(labels.x)
        .y_desc(labels.y)
        .x_labels(6)
        .y_labels(0)
        .x_label_formatter(&|value| tick(*value))
        .y_label_formatter(&|_| String::new())
        .label_style(("sans-serif", TEXT))
        .bold_line_style(BLACK.mix(0.12))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let text = |align| ("sans-serif", TEXT).into_text_style(area).pos(Pos::new(align, VPos::Center));
    let (right, left) = (text(HPos::Right), text(HPos::Left));
    for (index, name) in names.iter().enumerate() {
        let middle = (values.start, index as f64 + 0.5);
        chart.draw_series([EmptyElement::at(middle) + Text::new(name.clone(), (-8, 0), right.clone())])?;
    }
    if let Some(mark) = mark {
        let stroke = BLACK.mix(0.6).stroke_width(1);
        chart.draw_series(DashedLineSeries::new([(mark, 0.0), (mark, names.len() as f64)], 4, 3, stroke))?;
    }
    let thickness = f64::from(BAR) / f64::from(BAR * series.len() as i32 + GAP);
    for (index, series_of) in series.iter().enumerate() {
        let colour = Pen::of(index).colour;
        for (name, bar) in series_of.bars.iter().enumerate().filter_map(|(name, bar)| Some((name, bar.as_ref()?))) {
            let from_middle = index as f64 - series.len() as f64 / 2.0;
            let top = name as f64 + 0.5 + from_middle * thickness;
            let (bottom, middle) = (top + thickness * 0.88, top + thickness * 0.44);
            chart.draw_series([Rectangle::new([(0.0, top), (bar.value, bottom)], colour.mix(0.75).filled())])?;
            let mut end = bar.value;
            if let Some((low, high)) = bar.error {
                let stroke = BLACK.mix(0.75).stroke_width(1);
                let cap = thickness * 0.2;
                let across = |x: f64| [(x, middle - cap), (x, middle + cap)];
                let strokes = [[(low, middle), (high, middle)], across(low), across(high)];
                chart.draw_series(strokes.map(|points| PathElement::new(points, stroke)))?;
                end = if bar.value < 0.0 { low } else { high };
            }
            let (offset, style) = if bar.value < 0.0 { (-6, &right) } else { (6, &left) };
            let text = Text::new(bar.text.clone(), (offset, 0), style.clone());
            chart.draw_series([EmptyElement::at((end, middle)) + text])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn bar(value: f64, error: Option<(f64, f64)>) -> Option<Bar> {
        Some(Bar { value, text: format!("{value:.2}"), error })
    }

    #[test]
    fn a_plot_names_its_axes_bars_and_values() {
        let names = ["uniform".to_owned(), "a < b".to_owned()];
        let series = |name: &str| Bars { name: name.into(), bars: vec![bar(0.5, Some((0.4, 0.6))), bar(-0.25, None)] };
        let labels = Labels { title: "win rate", x: "share of wins", y: "run" };
        let one = bars(&labels, &names, &[series("policy")], Some(0.5)).unwrap();
        for text in ["win rate", "share of wins", "run", "uniform", "a &lt; b", "0.50", "-0.25"] {
            assert!(one.contains(text), "{text}");
        }
        assert!(!one.contains("policy"), "a single series needs no legend");
        let two = bars(&labels, &names, &[series("policy"), series("reference")], None).unwrap();
        assert!(two.contains("policy") && two.contains("reference"));
        bars(&labels, &[], &[], None).unwrap();
        bars(&labels, &names, &[Bars { name: "policy".into(), bars: vec![None, bar(f64::NAN, None)] }], None).unwrap();
    }

    #[test]
    fn bars_begin_at_zero_and_leave_room_for_their_text() {
        let series = [Bars { name: "policy".into(), bars: vec![bar(2.0, Some((1.0, 3.0)))] }];
        let found = range(&series, Some(2.5), 400);
        assert!(found.start == 0.0 && found.end > 3.2, "{found:?}");
        let series = [Bars { name: "policy".into(), bars: vec![bar(-2.0, None)] }];
        assert!(range(&series, None, 400).start < -2.1);
    }
}
