//! Title and axes of a plot, and the numbers along them.

use std::ops::Range;

/// Title and axis labels of a plot.
pub struct Labels<'a> {
    /// Title above the plot.
    pub title: &'a str,
    /// Label of the x axis.
    pub x: &'a str,
    /// Label of the y axis.
    pub y: &'a str,
}

/// Returns a range a little wider than the values.
pub(super) fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = ((high - low) * 0.06).max(1e-3);
    low - margin..high + margin
}

/// Writes the number at a tick of an axis: with six significant digits, without zeros at the end.
pub(super) fn tick(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{value:e}");
    }
    let decimals = (5 - size.log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let cases = [(0.0, "0"), (0.1 + 0.2, "0.3"), (250.0, "250"), (-1.5, "-1.5"), (120_000.0, "120000")];
        for (value, text) in cases {
            assert_eq!(tick(value), text);
        }
        assert_eq!((tick(2e6), tick(1e-5)), ("2e6".to_owned(), "1e-5".to_owned()));
    }

    #[test]
    fn spans_hold_what_is_finite() {
        let found = span([1.0, f64::NAN, 3.0].into_iter());
        assert!(found.start < 1.0 && found.end > 3.0);
        assert_eq!(span([f64::NAN].into_iter()), 0.0..1.0);
    }
}
