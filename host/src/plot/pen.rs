//! The colours and dashes that tell series apart.

use plotters::prelude::RGBColor;

/// Twelve colours that differ in hue or lightness, and can be seen on light and on dark paper.
const COLOURS: [RGBColor; 12] = [
    RGBColor(49, 120, 198),
    RGBColor(217, 72, 60),
    RGBColor(58, 150, 78),
    RGBColor(150, 108, 200),
    RGBColor(230, 138, 30),
    RGBColor(28, 164, 172),
    RGBColor(214, 100, 170),
    RGBColor(150, 105, 80),
    RGBColor(160, 160, 40),
    RGBColor(125, 125, 125),
    RGBColor(80, 90, 190),
    RGBColor(100, 185, 120),
];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pen {
    pub(super) colour: RGBColor,
    /// The colours repeat with dashed lines and with triangles for points.
    pub(super) dashed: bool,
}

impl Pen {
    /// Returns the pen of a series by its place.
    pub(super) fn of(index: usize) -> Self {
        Self { colour: COLOURS[index % COLOURS.len()], dashed: (index / COLOURS.len()) % 2 == 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_as_many_series_as_colours_differ() {
        let pens: Vec<Pen> = (0..2 * COLOURS.len()).map(Pen::of).collect();
        for (index, pen) in pens.iter().enumerate() {
            assert!(!pens[..index].contains(pen), "{index}");
        }
    }
}
