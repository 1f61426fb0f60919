//! The report's tables for a terminal.

use std::fmt::Write as _;

use crate::metrics::LOG_RATIO;

use super::report::{ControlReport, Metric, NamedReport, Point};

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
    write_points(&mut text, report, width);
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

/// Writes reward accuracy and log-ratio at the corners and at uniform λ.
fn write_points(text: &mut String, report: &ControlReport, width: usize) {
    let mut rows: Vec<(&str, usize)> = Vec::new();
    for (name, curve) in report.dimensions.iter().zip(&report.curves) {
        if let (true, Some(&corner)) = (report.has_lambda(), curve.last()) {
            rows.push((name, corner));
        }
    }
    let is_uniform = |point: &Point| point.lambda.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 1e-9);
    rows.extend(report.points.iter().position(is_uniform).map(|point| ("uniform", point)));
    let _ = writeln!(text, "held-out records\n  {:width$}  {:>15}  {:>9}", "λ", "reward accuracy", "log-ratio");
    for (name, point) in rows {
        let value = |key: &str| report.points[point].held_out.get(key).and_then(serde_json::Value::as_f64);
        let (accuracy, ratio) = (value("eval_rewards/accuracies"), value(&format!("eval_{LOG_RATIO}")));
        let (accuracy, ratio) = (accuracy.unwrap_or(f64::NAN), ratio.unwrap_or(f64::NAN));
        let _ = writeln!(text, "  {name:width$}  {accuracy:15.3}  {ratio:9.3}");
    }
    text.push('\n');
}

/// A column of ranges, one for each dimension.
struct RangeColumn {
    title: String,
    ranges: Vec<Option<f64>>,
}

/// Returns the ranges of this report and of the others; a soup has a column for its specialists too.
fn range_columns(report: &ControlReport, others: &[NamedReport], metric: Metric) -> Vec<RangeColumn> {
    let column =
        |title: &str, of: &ControlReport, range: fn(&ControlReport, Metric, &str) -> Option<f64>| RangeColumn {
            title: title.to_owned(),
            ranges: report.dimensions.iter().map(|name| range(of, metric, name)).collect(),
        };
    let mut columns = vec![column("this", report, ControlReport::range)];
    for NamedReport { name, report } in others {
        if !report.subject.soup.is_empty() {
            columns.push(column("specialists", report, ControlReport::corner_range));
        }
        columns.push(column(name, report, ControlReport::range));
    }
    columns
}

/// Returns the mean of the ranges that were measured.
fn mean(ranges: &[Option<f64>]) -> f64 {
    let known: Vec<f64> = ranges.iter().flatten().copied().collect();
    known.iter().sum::<f64>() / known.len() as f64
}

fn write_ranges(text: &mut String, metric: Metric, dimensions: &[String], columns: &[RangeColumn], width: usize) {
    let _ = write!(text, "range of the {}\n  {:width$}", metric.title(), "");
    for column in columns {
        let _ = write!(text, "  {:>13}", column.title);
    }
    let has_specialists = columns.get(1).is_some_and(|column| column.title == "specialists");
    let _ = writeln!(text, "{}", if has_specialists { "  this / specialists" } else { "" });
    let mut write_row = |name: &str, values: &[f64]| {
        let _ = write!(text, "  {name:width$}");
        for value in values {
            let _ = write!(text, "  {value:13.3}");
        }
        let share = if has_specialists { format!("  {:17.0} %", 100.0 * values[0] / values[1]) } else { String::new() };
        let _ = writeln!(text, "{share}");
    };
    for (index, name) in dimensions.iter().enumerate() {
        let row: Vec<f64> = columns.iter().map(|column| column.ranges[index].unwrap_or(f64::NAN)).collect();
        write_row(name, &row);
    }
    let means: Vec<f64> = columns.iter().map(|column| mean(&column.ranges)).collect();
    write_row("mean", &means);
    text.push('\n');
}
