//! The report's tables for a terminal.

use std::fmt::Write as _;

use super::report::{ControlReport, Metric, NamedReport, SPECIALISTS};

/// Width of the first column at least: its longest heading.
const MIN_WIDTH: usize = "reward accuracy".len();

/// Renders the tables: each dimension over its own weight, reward accuracy and log-ratio, then the ranges beside those of
/// other reports.
pub fn tables(report: &ControlReport, others: &[NamedReport]) -> String {
    let mut text = String::new();
    let width = report.dimensions.iter().map(String::len).max().unwrap_or(0).max(MIN_WIDTH);
    for metric in report.metrics() {
        let _ = writeln!(text, "{}", metric.title());
        write_curves(&mut text, report, metric, width);
    }
    write_points(&mut text, report, others, width);
    for metric in report.metrics() {
        let columns = range_columns(report, others, metric);
        if columns.len() > 1 {
            write_ranges(&mut text, metric, &report.dimensions, &columns, width);
        }
    }
    text
}

fn write_curves(text: &mut String, report: &ControlReport, metric: Metric, width: usize) {
    if !report.has_lambda() {
        let _ = writeln!(text, "  {:width$}  {:>8}", "", "any λ");
        for name in &report.dimensions {
            if let Some((_, value)) = report.curve(metric, name).first() {
                let _ = writeln!(text, "  {name:width$}  {value:8.3}");
            }
        }
        text.push('\n');
        return;
    }
    let steps: Vec<f64> = report.curves[0].iter().map(|&point| report.points[point].lambda[0]).collect();
    let _ = write!(text, "  {:width$}", "its own λ =");
    for step in steps {
        let _ = write!(text, "  {step:8.2}");
    }
    let _ = writeln!(text, "  {:>8}", "range");
    for name in &report.dimensions {
        let curve = report.curve(metric, name);
        let _ = write!(text, "  {name:width$}");
        for (_, value) in &curve {
            let _ = write!(text, "  {value:8.3}");
        }
        let rises = curve.windows(2).all(|pair| pair[1].1 > pair[0].1);
        let note = if rises { "" } else { "  does not rise throughout" };
        let _ = writeln!(text, "  {:8.3}{note}", report.range(metric, name).unwrap_or(f64::NAN));
    }
    text.push('\n');
}

/// Writes reward accuracy and log-ratio at the corners and at uniform λ, and those of other reports at uniform λ.
fn write_points(text: &mut String, report: &ControlReport, others: &[NamedReport], width: usize) {
    let mut rows: Vec<(&str, [Option<f64>; 2])> = Vec::new();
    for (name, curve) in report.dimensions.iter().zip(&report.curves) {
        if let (true, Some(&corner)) = (report.has_lambda(), curve.last()) {
            rows.push((name, report.accuracy_and_log_ratio(corner)));
        }
    }
    rows.extend(report.uniform_point().map(|point| ("uniform", report.accuracy_and_log_ratio(point))));
    let width = others.iter().map(|other| other.name.chars().count()).fold(width, usize::max);
    let _ = writeln!(text, "held-out records\n  {:width$}  {:>15}  {:>9}", "λ", "reward accuracy", "log-ratio");
    let mut write_row = |name: &str, [accuracy, ratio]: [Option<f64>; 2]| {
        let _ = writeln!(text, "  {name:width$}  {:>15}  {:>9}", shown(accuracy), shown(ratio));
    };
    for (name, values) in rows {
        write_row(name, values);
    }
    let others = others.iter().filter_map(|other| Some((other, other.report.uniform_point()?)));
    for (NamedReport { name, report }, point) in others {
        write_row(name, report.accuracy_and_log_ratio(point));
    }
    text.push('\n');
}

/// Shows a value, or that it was not measured.
fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// A column of ranges, one for each dimension.
struct RangeColumn {
    title: String,
    ranges: Vec<Option<f64>>,
}

/// Returns the ranges of the report and of the others; a soup has a column for its specialists too.
fn range_columns(report: &ControlReport, others: &[NamedReport], metric: Metric) -> Vec<RangeColumn> {
    let column =
        |title: &str, of: &ControlReport, range: fn(&ControlReport, Metric, &str) -> Option<f64>| RangeColumn {
            title: title.to_owned(),
            ranges: report.dimensions.iter().map(|name| range(of, metric, name)).collect(),
        };
    let mut columns = vec![column(&report.name_beside(others), report, ControlReport::range)];
    for NamedReport { name, report } in others {
        if !report.subject.soup.is_empty() {
            columns.push(column(SPECIALISTS, report, ControlReport::corner_range));
        }
        columns.push(column(name, report, ControlReport::range));
    }
    columns
}

/// Returns the mean of the ranges that were measured.
fn mean(ranges: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = ranges.iter().flatten().copied().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

fn write_ranges(text: &mut String, metric: Metric, dimensions: &[String], columns: &[RangeColumn], width: usize) {
    let widths: Vec<usize> = columns.iter().map(|column| column.title.chars().count().max(13)).collect();
    let _ = write!(text, "range of the {}\n  {:width$}", metric.title(), "");
    for (column, width) in columns.iter().zip(&widths) {
        let _ = write!(text, "  {:>width$}", column.title);
    }
    let has_specialists = columns.get(1).is_some_and(|column| column.title == SPECIALISTS);
    let share_title = format!("{} / {SPECIALISTS}", columns.first().map_or("", |column| &column.title));
    let share_width = share_title.chars().count();
    let _ = writeln!(text, "{}", if has_specialists { format!("  {share_title}") } else { String::new() });
    let mut write_row = |name: &str, values: &[Option<f64>]| {
        let _ = write!(text, "  {name:width$}");
        for (value, width) in values.iter().zip(&widths) {
            let _ = write!(text, "  {:>width$}", shown(*value));
        }
        if let (true, [own, specialists, ..]) = (has_specialists, values) {
            let share = own.zip(*specialists).map(|(own, specialists)| format!("{:.0} %", 100.0 * own / specialists));
            let _ = write!(text, "  {:>share_width$}", share.unwrap_or_else(|| shown(None)));
        }
        let _ = writeln!(text);
    };
    for (index, name) in dimensions.iter().enumerate() {
        write_row(name, &columns.iter().map(|column| column.ranges[index]).collect::<Vec<_>>());
    }
    write_row("mean", &columns.iter().map(|column| mean(&column.ranges)).collect::<Vec<_>>());
    text.push('\n');
}
