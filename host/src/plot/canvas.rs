//! The area of a plot, with its legend below.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::pen::Pen;

/// Width of a plot, in pixels; pages scale it.
pub(super) const WIDTH: u32 = 480;
/// Size of the text at axes and in legends.
pub(super) const TEXT: u32 = 14;

/// Where a plot is drawn.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Errors of the drawing library are of many types.
pub(super) type Drawn = Result<(), Box<dyn Error>>;

const MARGIN: i32 = 12;
const LINE_HEIGHT: i32 = 20;
const SAMPLE_WIDTH: i32 = 20;
/// Between a sample and its name, and twice between two entries.
const GAP: i32 = 8;

/// An entry of a legend.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) pen: Pen,
}

/// Draws a plot of a height, in pixels, and its legend below; without entries, there is no legend.
pub(super) fn draw(height: u32, entries: &[Entry], plot: impl FnOnce(&Area) -> Drawn) -> Result<String, String> {
    let places = places(entries);
    let num_lines = places.last().map_or(0, |place| place.line + 1);
    let legend_height = if num_lines == 0 { 0 } else { num_lines * LINE_HEIGHT + MARGIN };
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height + legend_height as u32)).into_drawing_area();
    let (upper, lower) = root.split_vertically(height);
    let drawn = plot(&upper).and_then(|()| draw_legend(&lower, entries, &places)).and_then(|()| Ok(root.present()?));
    drop((root, upper, lower));
    drawn.map_err(|error| error.to_string())?;
    Ok(svg)
}

/// Width of a text, in pixels: an estimate that is rather too wide, because the font is chosen where the plot is seen.
pub(super) fn text_width(text: &str) -> i32 {
    // Letters of other scripts than those below U+0500 may be as wide as they are high.
    text.chars()
        .map(|letter| if u32::from(letter) < 0x500 { 0.58 } else { 1.0 })
        .sum::<f64>()
        .mul_add(f64::from(TEXT), 1.0) as i32
}

/// Shortens a text in its middle to a width, in pixels: both ends of a run's name say which it is.
pub(super) fn shortened(text: &str, width: i32) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut kept = letters.len();
    let mut short = text.to_owned();
    while text_width(&short) > width && kept > 2 {
        kept -= 1;
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        short = letters[..head].iter().chain(['…'].iter()).chain(&letters[letters.len() - tail..]).collect();
    }
    short
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    line: i32,
    x: i32,
}

/// Places the entries from left to right and from top to bottom, in as many columns of one width as fit.
fn places(entries: &[Entry]) -> Vec<Place> {
    let widest = entries.iter().map(|entry| text_width(&entry_name(entry))).max().unwrap_or(0);
    let width = SAMPLE_WIDTH + GAP + widest + 2 * GAP;
    let num_columns = ((WIDTH as i32 - 2 * MARGIN + 2 * GAP) / width).max(1);
    (0..entries.len() as i32)
        .map(|index| Place { line: index / num_columns, x: MARGIN + index % num_columns * width })
        .collect()
}

fn entry_name(entry: &Entry) -> String {
    shortened(entry.name, WIDTH as i32 - 2 * MARGIN - SAMPLE_WIDTH - GAP)
}

fn draw_legend(area: &Area, entries: &[Entry], places: &[Place]) -> Drawn {
    let style = ("sans-serif", TEXT).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
    for (entry, place) in entries.iter().zip(places) {
        let y = place.line * LINE_HEIGHT + LINE_HEIGHT / 2;
        let stroke = entry.pen.colour.stroke_width(3);
        let dashes: &[(i32, i32)] = if entry.pen.dashed { &[(0, 8), (12, 20)] } else { &[(0, SAMPLE_WIDTH)] };
        for (from, to) in dashes {
            area.draw(&PathElement::new([(place.x + from, y), (place.x + to, y)], stroke))?;
        }
        area.draw(&Text::new(entry_name(entry), (place.x + SAMPLE_WIDTH + GAP, y), style.clone()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry<'_> {
        Entry { name, pen: Pen::of(0) }
    }

    #[test]
    fn a_legend_has_as_many_columns_as_fit() {
        let places_of = |names: &[String]| places(&names.iter().map(|name| entry(name)).collect::<Vec<_>>());
        let lines = |names: &[String]| places_of(names).iter().map(|place| place.line).collect::<Vec<_>>();
        let names: Vec<String> = (0..5).map(|number| format!("run {number}")).collect();
        assert_eq!(lines(&names), [0, 0, 0, 0, 0]);
        let names: Vec<String> = (0..5).map(|number| format!("a longer name {number}")).collect();
        assert_eq!(lines(&names), [0, 0, 1, 1, 2]);
        let name = "d".repeat(300);
        assert_eq!(lines(&[name.clone(), name.clone()]), [0, 1]);
        let right = SAMPLE_WIDTH + GAP + text_width(&entry_name(&entry(&name)));
        assert!(MARGIN + right <= WIDTH as i32 - MARGIN);
    }

    #[test]
    fn names_keep_both_ends() {
        assert_eq!(shortened("listwise", 200), "listwise");
        let short = shortened("finetuned-base/lambda_dpo/uniform/seed-3", 120);
        assert!(short.starts_with("finet") && short.ends_with("eed-3") && short.contains('…'), "{short}");
    }
}
