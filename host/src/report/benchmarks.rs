//! `benchmarks.json` of a run: what lm-eval measured.

use std::path::Path;

use anyhow::{Context as _, Result};
use indexmap::IndexMap;
use serde::Deserialize;

use crate::evaluate::figure::{Better, Figure, Section, Unit};
use crate::evaluate::figures::Measured;
use crate::files::regular;

/// Figures of public benchmarks.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Benchmarks {
    /// Version of lm-eval.
    lm_eval: String,
    /// By the names of the tasks.
    tasks: IndexMap<String, Task>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Task {
    /// Name of the metric, such as `acc`.
    metric: String,
    /// Share of right answers, from 0 to 1.
    value: f64,
    stderr: Option<f64>,
    num_questions: u64,
}

impl Benchmarks {
    /// Reads the file; None if there is none.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read or does not parse.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        if !regular::is_there(path) {
            return Ok(None);
        }
        let text = regular::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let benchmarks = serde_json::from_str(&text);
        benchmarks.map(Some).with_context(|| {
            format!("{} does not hold figures of benchmarks: remove it, or run `make benchmarks` again", path.display())
        })
    }

    /// Returns the figures, one for each task.
    pub(super) fn figures(&self) -> Vec<Measured> {
        let figure = |(name, task): (&String, &Task)| Measured {
            figure: Figure {
                key: format!("benchmarks/{name}"),
                section: Section::Benchmarks,
                title: name.clone(),
                unit: Unit::Share,
                better: Some(Better::Higher),
                meaning: format!("{} by lm-eval {} on {} questions.", task.metric, self.lm_eval, task.num_questions),
            },
            value: task.value,
            stderr: task.stderr,
        };
        self.tasks.iter().map(figure).collect()
    }
}
