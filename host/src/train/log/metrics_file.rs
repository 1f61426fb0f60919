//! `metrics.jsonl`: one line for each logged step or evaluation.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use crate::files::{atomic, regular};
use crate::metrics::{Row, present_name};

/// `metrics.jsonl`: appended to line by line, cut back on resuming.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    has_renamed: bool,
    losses: Losses,
}

/// Losses of all lines, as (step, loss): what `loss.svg` shows.
///
/// They are kept, because to read the lines again at each save takes time and memory that grow with the run.
#[derive(Debug, Default)]
pub struct Losses {
    /// Of training steps.
    pub train: Vec<(u64, f64)>,
    /// Of evaluations.
    pub eval: Vec<(u64, f64)>,
}

impl Losses {
    fn add(&mut self, row: &Row) {
        let value = |key: &str| Some((step_of(row), row.get(key)?.as_f64()?));
        self.train.extend(value("loss"));
        self.eval.extend(value("eval_loss"));
    }
}

impl MetricsFile {
    /// Creates an empty file; given `last_step`, keeps the lines of an existing file up to that step, in which
    /// [`has_renamed`](Self::has_renamed) tells whether a metric got its present name.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or written.
    pub fn open(path: &Path, last_step: Option<u64>) -> io::Result<Self> {
        let kept: Vec<Row> = match last_step {
            Some(last_step) => read(path)?.into_iter().filter(|row| step_of(row) <= last_step).collect(),
            None => Vec::new(),
        };
        let has_renamed = kept.iter().flat_map(Row::keys).any(|key| present_name(key) != *key);
        let renamed = |row: Row| row.into_iter().map(|(key, value)| (present_name(&key), value)).collect();
        let kept: Vec<Row> = kept.into_iter().map(renamed).collect();
        let text: String = kept.iter().map(line).collect();
        atomic::write(path, text.as_bytes()).map_err(|error| error.source)?;
        let mut losses = Losses::default();
        kept.iter().for_each(|row| losses.add(row));
        Ok(Self { file: OpenOptions::new().append(true).open(path)?, has_renamed, losses })
    }

    /// Returns whether the kept lines had a metric under a former name.
    pub fn has_renamed(&self) -> bool {
        self.has_renamed
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be written.
    pub fn append(&mut self, row: &Row) -> io::Result<()> {
        self.file.write_all(line(row).as_bytes())?;
        self.losses.add(row);
        Ok(())
    }

    /// Returns the losses of all lines, in order.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }
}

/// Reads the lines of a metrics file. A last line that was cut short when the run was killed is left out, and a missing
/// file has no lines.
///
/// # Errors
///
/// Returns an error if the file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Row>> {
    match regular::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Returns the step of a line.
pub fn step_of(row: &Row) -> u64 {
    row.get("step").and_then(Value::as_u64).unwrap_or(0)
}

fn line(row: &Row) -> String {
    format!("{}\n", Value::Object(row.clone()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn row(step: u64, loss: f64) -> Row {
        Row::from_iter([("step".to_owned(), step.into()), ("loss".to_owned(), loss.into())])
    }

    #[test]
    fn resuming_cuts_back_to_the_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, None).unwrap();
        for step in 1..=5 {
            file.append(&row(step, 1.0 / step as f64)).unwrap();
        }
        drop(file);
        // As left behind by a run that was killed.
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"step\": 6, \"lo");
        std::fs::write(&path, text).unwrap();
        let mut file = MetricsFile::open(&path, Some(3)).unwrap();
        assert!(!file.has_renamed());
        file.append(&row(4, 0.25)).unwrap();
        let losses = [(1, 1.0), (2, 0.5), (3, 1.0 / 3.0), (4, 0.25)];
        assert_eq!(file.losses().train, losses);
        drop(file);
        assert_eq!(MetricsFile::open(&path, Some(4)).unwrap().losses().train, losses);
    }

    #[test]
    fn former_names_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":0,\"eval_kl\":0.5,\"eval_loss\":1.0}\n{\"step\":1,\"kl\":0.25}\n").unwrap();
        let file = MetricsFile::open(&path, Some(1)).unwrap();
        assert!(file.has_renamed());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "{\"step\":0,\"eval_logps/ratio\":0.5,\"eval_loss\":1.0}\n{\"step\":1,\"logps/ratio\":0.25}\n"
        );
    }
}
