//! The report as a self-contained HTML page.

use std::fmt::Write as _;

use crate::page::{document, escape, figure};
use crate::plot::{self, Labels, Series};

use super::report::{ControlReport, Metric, NamedReport};
use super::table::tables;

/// Renders the page.
pub(super) fn html(report: &ControlReport, others: &[NamedReport]) -> Result<String, String> {
    let mut page = introduction(report);
    for metric in report.metrics() {
        let _ = writeln!(
            page,
            "<h2>The {0} over λ</h2>\n<p>The {0}, as the weight of its dimension goes from 0 to 1 and the others share the \
             rest equally. A line that rises is control; a level line is a policy that does not see λ.</p>\n\
             <div class=\"plots\">",
            metric.title()
        );
        for name in &report.dimensions {
            let labels = Labels { title: name, x: &format!("λ of {name}, the rest equal"), y: metric.title() };
            let svg = plot::curves(&labels, &series(report, others, |report| report.curve(metric, name)))?;
            page.push_str(&figure(&svg, ""));
        }
        page.push_str("</div>\n");
    }
    // The first metric: scores of generated text if there are any.
    if let Some(&metric) = report.metrics().first() {
        let _ = writeln!(
            page,
            "<h2>Each pair of dimensions</h2>\n<p>The {} in both. Each point is a λ of the grid; the line connects the \
             points that no other point of the same policy exceeds in both dimensions. Further up and to the right is \
             better.</p>\n<div class=\"plots\">",
            metric.title()
        );
        for (index, first) in report.dimensions.iter().enumerate() {
            for second in &report.dimensions[index + 1..] {
                let labels = Labels { title: &format!("{first} and {second}"), x: first, y: second };
                let pairs = series(report, others, |report| pairs(report, metric, first, second));
                page.push_str(&figure(&plot::front(&labels, &pairs)?, ""));
            }
        }
        page.push_str("</div>\n");
    }
    let _ =
        writeln!(page, "<h2>Tables</h2>\n<div class=\"scroll\"><pre>{}</pre></div>", escape(tables(report, others)));
    Ok(document("What λ controls", &page))
}

fn introduction(report: &ControlReport) -> String {
    let adapter = report.subject.adapter.as_ref().map(|path| path.display().to_string());
    let soup = (!report.subject.soup.is_empty()).then(|| "a linear mix of specialists".to_owned());
    let what = adapter.or(soup).unwrap_or_else(|| report.subject.model.display().to_string());
    let mut text = format!("<p>{}: {} held-out records", escape(&what), report.num_records);
    if let Some(generation) = &report.generation {
        let _ = write!(
            text,
            ", and {} to each of {} prompts at each λ (temperature {}, top-p {}), scored by <code>{}</code>",
            if generation.num_samples == 1 {
                "an answer".to_owned()
            } else {
                format!("{} answers", generation.num_samples)
            },
            generation.num_prompts,
            generation.temperature,
            generation.top_p,
            escape(&generation.rater)
        );
    }
    text.push_str(".</p>\n");
    text
}

/// Returns a series for the report and for each of the others.
fn series(
    report: &ControlReport,
    others: &[NamedReport],
    points: impl Fn(&ControlReport) -> Vec<(f64, f64)>,
) -> Vec<Series> {
    let own = report.name_beside(others);
    let others = others.iter().map(|other| (other.name.as_str(), &other.report));
    let all = std::iter::once((own.as_str(), report)).chain(others);
    all.map(|(name, report)| Series { name: name.to_owned(), points: points(report), band: Vec::new() }).collect()
}

fn pairs(report: &ControlReport, metric: Metric, first: &str, second: &str) -> Vec<(f64, f64)> {
    let pair = |point| Some((report.at(point, metric, first)?, report.at(point, metric, second)?));
    (0..report.points.len()).filter_map(pair).collect()
}
