//! The report for a browser.

use std::fmt::Write as _;

use crate::evaluate::figure::{Figure, Section, Unit};
use crate::page::{document, escape, figure};
use crate::plot::{self, Bar, Bars, Labels};

use super::comparison::{Comparison, Report, Row};
use super::curves;
use super::spread::Spread;

/// Figures that get a plot of bars, beside those of benchmarks and expected ratings.
const PLOTTED: [&str; 10] = [
    "records/rewards/accuracies",
    "train/eval_rewards/accuracies",
    "kl/tokens",
    "kl/k3",
    "spearman/mean/policy",
    "win_rate/rate",
    "win_rate/length_controlled",
    "win_rate/mean_length/policy",
    "run/seconds",
    "run/peak_memory_bytes",
];

/// Renders the page.
///
/// # Errors
///
/// Errors from the drawing library; none are known.
pub(super) fn html(comparison: &Comparison) -> Result<String, String> {
    let report = &comparison.report;
    let mut page = introduction(report);
    for section in Section::ALL {
        let figures = report.section(section);
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(page, "<h2>{}</h2>", section.title());
        let mut plots = String::new();
        if section == Section::Training {
            for (svg, caption) in curves::plots(comparison)? {
                plots.push_str(&figure(&svg, &caption));
            }
        }
        for plotted in figures.iter().filter(|figure| is_plotted(figure)) {
            plots.push_str(&bars(report, plotted)?);
        }
        if !plots.is_empty() {
            let _ = writeln!(page, "<div class=\"plots\">\n{plots}</div>");
        }
        page.push_str(&table(report, &figures));
        page.push_str(&meanings(&figures));
    }
    page.push_str(&runs(report));
    Ok(document("Runs side by side", &page))
}

fn introduction(report: &Report) -> String {
    let num_runs: usize = report.rows.iter().map(|row| row.runs.len()).sum();
    let runs = if num_runs == 1 { "One run".to_owned() } else { format!("{num_runs} runs") };
    let spread = if report.has_spread() {
        " Runs that differ only by seed are one row: the mean over them, and after ± their standard deviation."
    } else {
        ""
    };
    let mut text = format!("<p>{runs}.{spread}</p>\n");
    if !report.notes.is_empty() {
        let note = |note: &String| format!("<li>{}</li>\n", escape(note));
        let notes: String = report.notes.iter().map(note).collect();
        let _ = writeln!(text, "<div class=\"card small\"><ul>\n{notes}</ul></div>");
    }
    text
}

fn is_plotted(figure: &Figure) -> bool {
    PLOTTED.contains(&figure.key.as_str())
        || figure.section == Section::Benchmarks
        || figure.key.starts_with("records/expected_rating/")
}

/// Draws a figure of every row.
fn bars(report: &Report, of: &Figure) -> Result<String, String> {
    let bar = |row: &Row| {
        let Spread { mean, stddev, .. } = row.figures.get(&of.key)?;
        let scaled = |value: f64| of.unit.scaled(value);
        let error = stddev.map(|stddev| (scaled(mean - stddev), scaled(mean + stddev)));
        Some(Bar { value: scaled(*mean), text: of.unit.number(*mean), error })
    };
    let rows = report.rows_with(&[of]);
    let names: Vec<String> = rows.iter().map(|row| row.title()).collect();
    let bars: Vec<Option<Bar>> = rows.into_iter().map(bar).collect();
    let has_errors = bars.iter().flatten().any(|bar| bar.error.is_some());
    // A draw.
    let mark = of.key.starts_with("win_rate/") && of.unit == Unit::Share;
    let x = of.title_with_unit();
    let labels = Labels { title: &of.title, x: &x, y: "run" };
    let series = [Bars { name: of.title.clone(), bars }];
    let svg = plot::bars(&labels, &names, &series, mark.then_some(50.0))?;
    let errors = if has_errors { " Error bars: one standard deviation over runs." } else { "" };
    let draw = if mark { " The dashed line is a draw." } else { "" };
    Ok(figure(&svg, &format!("{} {}{draw}{errors}", of.meaning, of.direction())))
}

/// Renders a table: a line for each row in which any figure was measured, a column for each figure.
fn table(report: &Report, figures: &[&Figure]) -> String {
    let mut text = String::from("<div class=\"scroll\"><table>\n<thead><tr><th>run</th>");
    for figure in figures {
        let _ = write!(text, "<th>{}</th>", escape(figure.title_with_unit()));
    }
    text.push_str("</tr></thead>\n<tbody>\n");
    for row in report.rows_with(figures) {
        let _ = write!(text, "<tr><th>{}</th>", escape(row.title()));
        for figure in figures {
            let cell = row.figures.get(&figure.key).map_or_else(String::new, |spread| {
                let stddev = spread.stddev.map_or_else(String::new, |stddev| {
                    format!(" <span class=\"soft small\">± {}</span>", figure.unit.number(stddev))
                });
                format!("{}{stddev}", figure.unit.number(spread.mean))
            });
            let _ = write!(text, "<td class=\"number\">{cell}</td>");
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div>\n");
    text
}

/// Says how to read each figure; those of the same meaning together.
fn meanings(figures: &[&Figure]) -> String {
    let mut groups: Vec<(Vec<&str>, &Figure)> = Vec::new();
    for &figure in figures {
        match groups.iter_mut().find(|(_, first)| first.meaning == figure.meaning) {
            Some((titles, _)) => titles.push(&figure.title),
            None => groups.push((vec![&figure.title], figure)),
        }
    }
    let entry = |(titles, figure): &(Vec<&str>, &Figure)| {
        format!(
            "<p class=\"small\"><b>{}</b>: {} {}</p>\n",
            escape(titles.join("; ")),
            escape(&figure.meaning),
            figure.direction()
        )
    };
    let entries: String = groups.iter().map(entry).collect();
    format!("<details><summary>How to read these figures</summary>\n{entries}</details>\n")
}

/// Lists the runs of each row.
fn runs(report: &Report) -> String {
    let mut text = String::from(
        "<h2>Runs</h2>\n<details><summary>Folders and seeds</summary>\n<div class=\"scroll\"><table>\n<thead><tr><th>run</th>\
         <th>seed</th><th class=\"text\">folder</th></tr></thead>\n<tbody>\n",
    );
    for run in report.rows.iter().flat_map(|row| &row.runs) {
        let seed = run.seed.map_or_else(String::new, |seed| seed.to_string());
        let _ = writeln!(
            text,
            "<tr><th>{}</th><td>{seed}</td><td class=\"text\"><code>{}</code></td></tr>",
            escape(&run.name),
            escape(run.folder.display())
        );
    }
    text.push_str("</tbody></table></div>\n</details>\n");
    text
}
