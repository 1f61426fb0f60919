//! The report as a self-contained HTML page.

use std::fmt::Write as _;

use crate::plot::{self, Labels, Series};

use super::report::{ControlReport, Metric, NamedReport};
use super::table::tables;

const STYLE: &str = "body{font-family:sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}\
pre{background:#f6f6f6;padding:1em;overflow-x:auto}\
.plots{display:flex;flex-wrap:wrap;gap:12px}.plots svg{border:1px solid #ddd}";

/// Renders the page.
pub(super) fn html(report: &ControlReport, others: &[NamedReport]) -> Result<String, String> {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>What λ controls</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>What λ controls</h1>\n{}",
        introduction(report)
    );
    for metric in report.metrics() {
        let _ =
            writeln!(page, "<h2>Each dimension over its own weight: {}</h2>\n<div class=\"plots\">", metric.title());
        for name in &report.dimensions {
            let labels = Labels { title: name, x: &format!("λ of {name}, the rest equal"), y: metric.title() };
            page.push_str(&plot::curves(&labels, &series(report, others, |report| report.curve(metric, name)))?);
        }
        page.push_str("</div>\n");
    }
    // The first metric: scores of generated text if there are any.
    if let Some(&metric) = report.metrics().first() {
        let _ = writeln!(page, "<h2>Each pair of dimensions: {}</h2>\n<div class=\"plots\">", metric.title());
        for (index, first) in report.dimensions.iter().enumerate() {
            for second in &report.dimensions[index + 1..] {
                let labels = Labels { title: &format!("{first} and {second}"), x: first, y: second };
                page.push_str(&plot::front(
                    &labels,
                    &series(report, others, |report| pairs(report, metric, first, second)),
                )?);
            }
        }
        page.push_str(
            "</div>\n<p>Each point is a λ of the grid; the line connects the points that no other point of the same \
             adapter exceeds in both dimensions.</p>\n",
        );
    }
    let _ = writeln!(page, "<h2>Tables</h2>\n<pre>{}</pre>\n</body></html>", escape(&tables(report, others)));
    Ok(page)
}

fn introduction(report: &ControlReport) -> String {
    let adapter = report.subject.adapter.as_ref().map(|path| path.display().to_string());
    let soup = (!report.subject.soup.is_empty()).then(|| "a linear mix of specialists".to_owned());
    let what = adapter.or(soup).unwrap_or_else(|| report.subject.model.display().to_string());
    let mut text = format!("<p>{}: {} held-out records", escape(&what), report.num_records);
    if let Some(generation) = &report.generation {
        let _ = write!(
            text,
            ", and {} answers to each of {} prompts at each λ (temperature {}, top-p {}), scored by <code>{}</code>",
            generation.num_samples,
            generation.num_prompts,
            generation.temperature,
            generation.top_p,
            escape(&generation.rater)
        );
    }
    text.push_str(".</p>\n");
    text
}

/// Returns a series for this report and for each of the others.
fn series(
    report: &ControlReport,
    others: &[NamedReport],
    points: impl Fn(&ControlReport) -> Vec<(f64, f64)>,
) -> Vec<Series> {
    let others = others.iter().map(|other| (other.name.as_str(), &other.report));
    let all = std::iter::once(("this", report)).chain(others);
    all.map(|(name, report)| Series { name: name.to_owned(), points: points(report) }).collect()
}

fn pairs(report: &ControlReport, metric: Metric, first: &str, second: &str) -> Vec<(f64, f64)> {
    let pair = |point| Some((report.at(point, metric, first)?, report.at(point, metric, second)?));
    (0..report.points.len()).filter_map(pair).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
