//! The report for a terminal.

use std::fmt::Write as _;

use crate::evaluate::figure::{Figure, Section, Unit};

use super::comparison::{Report, Row};
use super::spread::Spread;

/// Width of a table at most; further columns go into another table below.
const MAX_WIDTH: usize = 120;

/// Renders a table for each section: a line for each row in which any of it was measured, a column for each figure.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let name_width = report.rows.iter().map(|row| row.title().chars().count()).max().unwrap_or(0);
    for section in Section::ALL {
        let figures = report.section(section);
        let rows = report.rows_with(&figures);
        let names: Vec<String> = rows.iter().map(|row| row.title()).collect();
        let columns: Vec<Column> = figures.into_iter().map(|figure| Column::new(&rows, figure)).collect();
        let mut rest = columns.as_slice();
        while !rest.is_empty() {
            let num_columns = num_fitting(rest, name_width);
            let (here, later) = rest.split_at(num_columns);
            rest = later;
            write_block(&mut text, section.title(), here, &names, name_width);
        }
    }
    if report.has_spread() {
        text.push_str("±: standard deviation over the runs of a row\n");
    }
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// A figure's column.
struct Column {
    /// Lines of its heading.
    heading: Vec<String>,
    /// A cell for each row.
    cells: Vec<String>,
    width: usize,
}

impl Column {
    fn new(rows: &[&Row], figure: &Figure) -> Self {
        let cell =
            |row: &&Row| row.figures.get(&figure.key).map_or_else(String::new, |spread| cell(figure.unit, spread));
        let cells: Vec<String> = rows.iter().map(cell).collect();
        let widest = cells.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
        let heading = wrapped(&figure.title_with_unit(), widest.max(14));
        let width = heading.iter().map(|line| line.chars().count()).fold(widest, usize::max);
        Self { heading, cells, width }
    }
}

/// Writes a mean, and its spread if there is one.
fn cell(unit: Unit, spread: &Spread) -> String {
    let mean = unit.number(spread.mean);
    spread.stddev.map_or_else(|| mean.clone(), |stddev| format!("{mean} ± {}", unit.number(stddev)))
}

/// Breaks a heading into lines of a width, between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns how many columns fit beside the names, one at least.
fn num_fitting(columns: &[Column], name_width: usize) -> usize {
    let mut width = name_width;
    let fits = |column: &&Column| {
        width += 2 + column.width;
        width <= MAX_WIDTH
    };
    columns.iter().take_while(fits).count().max(1)
}

fn write_block(text: &mut String, title: &str, columns: &[Column], names: &[String], name_width: usize) {
    let _ = writeln!(text, "{title}");
    let mut write_line = |name: &str, cells: &mut dyn Iterator<Item = (&str, usize)>| {
        let mut line = format!("{name:name_width$}");
        for (cell, width) in cells {
            let _ = write!(line, "  {cell:>width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    };
    let num_lines = columns.iter().map(|column| column.heading.len()).max().unwrap_or(0);
    for line in 0..num_lines {
        // Headings end at the same line.
        let part = |column: &'_ Column| (line + column.heading.len()).checked_sub(num_lines);
        write_line(
            "",
            &mut columns
                .iter()
                .map(|column| (part(column).map_or("", |line| column.heading[line].as_str()), column.width)),
        );
    }
    for (row, name) in names.iter().enumerate() {
        write_line(name, &mut columns.iter().map(|column| (column.cells[row].as_str(), column.width)));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_break_between_words() {
        assert_eq!(wrapped("win rate, length-controlled (%)", 14), ["win rate,", "length-controlled", "(%)"]);
        assert_eq!(wrapped("loss (nats)", 14), ["loss (nats)"]);
    }

    #[test]
    fn a_block_has_as_many_columns_as_fit_and_one_at_least() {
        let column = |width| Column { heading: vec![], cells: vec![], width };
        assert_eq!(num_fitting(&[column(30), column(30), column(60)], 20), 2);
        assert_eq!(num_fitting(&[column(300), column(30)], 20), 1);
    }
}
