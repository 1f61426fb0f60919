//! The `[lambda]` section of a run config with a fitted table.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::fit::Fit;

/// Returns the section, with a comment that names the report of the fit.
pub fn fragment(fit: &Fit, report: &str) -> String {
    let mut text = format!(
        "# Fitted by `lambda-dpo schedule fit`; {report:?} says how. Use it as the [lambda] section of a run config.\n\
         [lambda]\nschedule = \"table\"\ntable = [\n"
    );
    for candidate in &fit.candidates {
        let weights = candidate.lambda.iter().map(|(name, weight)| (name.clone(), Value::Float(*weight)));
        let row = [
            ("probability".to_owned(), Value::Float(candidate.probability)),
            ("weights".to_owned(), Value::Table(weights.collect())),
        ];
        let _ = writeln!(text, "    {},", Value::Table(row.into_iter().collect::<Table>()));
    }
    text.push_str("]\n");
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::anchors::Anchors;
    use super::super::fit::Settings;
    use super::super::surrogate::{Anchor, Form};
    use super::*;
    use crate::config::{LambdaSection, Schedule};

    #[test]
    fn names_and_numbers_of_any_form_are_read_back() {
        let names = ["Plain", "two words", "a.b", "quo\"te\\", "λ", ""];
        let corner = |dimension: usize| (0..6).map(|k| f64::from(u8::from(k == dimension))).collect();
        let mut points: Vec<Anchor> = (0..6).map(|k| Anchor { lambda: corner(k), score: 0.0 }).collect();
        points.push(Anchor { lambda: vec![1.0 / 6.0; 6], score: 1.0 });
        let anchors = Anchors { dimensions: names.map(str::to_owned).to_vec(), points };
        let candidates = [vec![1.0 / 6.0; 6], corner(2), vec![1e-320, 0.0, 0.5, 0.3, 0.2 - 1e-17, 1e-17]];
        let settings = Settings {
            scores: None,
            steer: None,
            metric: None,
            surrogate: Form::Diagonal,
            ridge: 1e-3,
            // Most candidates have a probability of 0, or almost.
            temperature: 0.002,
            minimize: false,
            candidates_file: None,
            seed: None,
        };
        let fit = Fit::new(&anchors, &candidates, settings).unwrap();
        let text = fragment(&fit, "it's \"here\".json");
        let mut config: Table = toml::from_str(&text).unwrap();
        let section: LambdaSection = config.remove("lambda").unwrap().try_into().unwrap();
        assert!(config.is_empty());
        assert_eq!(section.schedule, Schedule::Table);
        let rows = section.table.unwrap();
        assert_eq!(rows.len(), 3);
        for (row, (candidate, lambda)) in rows.iter().zip(fit.candidates.iter().zip(candidates)) {
            assert_eq!(row.probability, candidate.probability);
            assert_eq!(names.map(|name| row.weights[name]).to_vec(), lambda);
        }
    }
}
