//! An evaluation as tables for a terminal.

use std::fmt::Write as _;

use super::evaluation::Evaluation;
use super::figure::Section;
use super::figures::{Measured, figures};

/// Renders a table of each section in which anything was measured: a figure, its value, and its standard error.
#[must_use]
pub fn table(evaluation: &Evaluation) -> String {
    let all = figures(evaluation);
    let width = all.iter().map(|measured| measured.figure.title.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for section in Section::ALL {
        let rows: Vec<&Measured> = all.iter().filter(|measured| measured.figure.section == section).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "{}", section.title());
        for Measured { figure, value, stderr } in rows {
            let stderr = stderr.map_or_else(String::new, |stderr| format!("± {}", figure.unit.number(stderr)));
            let line = format!(
                "  {:width$}  {:>9}  {stderr:9}  {}",
                figure.title,
                figure.unit.number(*value),
                figure.unit.symbol()
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
    }
    if let Some(rate) = evaluation.win_rate.as_ref().map(|win_rate| &win_rate.overall) {
        let [low, high] = rate.interval.map(|end| 100.0 * end);
        let _ = writeln!(
            text,
            "{} wins, {} ties, {} losses; 95 % interval of the win rate: {low:.1} to {high:.1} %",
            rate.wins, rate.ties, rate.losses
        );
    }
    text.push_str("±: standard error\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::sample;

    #[test]
    fn a_table_shows_every_figure_with_its_error_and_unit() {
        let text = table(&sample::evaluation());
        let line = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or("").trim();
        assert_eq!(line("win rate  "), format!("{:42}{:>9}  ± 2.8      %", "win rate", "61.5"));
        assert_eq!(line("KL per token"), format!("{:42}{:>9}  ± 0.002    nats", "KL per token, exact", "0.103"));
        assert_eq!(line("peak memory"), format!("{:42}{:>9}             MiB", "peak memory", "482"));
        assert!(text.contains("110 wins, 26 ties, 64 losses; 95 % interval of the win rate: 56.0 to 67.0 %"), "{text}");
        let unmeasured = [Section::Benchmarks, Section::Training];
        for section in Section::ALL.iter().filter(|section| !unmeasured.contains(section)) {
            assert!(text.contains(section.title()), "{text}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_in_the_table() {
        let mut evaluation = sample::evaluation();
        (evaluation.kl, evaluation.win_rate, evaluation.run) = (None, None, None);
        evaluation.scores.clear();
        let text = table(&evaluation);
        for title in [Section::Divergence.title(), Section::Answers.title(), Section::Cost.title(), "win rate"] {
            assert!(!text.contains(title), "{text}");
        }
    }
}
