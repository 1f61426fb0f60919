//! Interim results of a command that takes long: what it has finished is not computed again after a failure.
//!
//! They are in a file beside the command's output, `OUT.unfinished.jsonl`, which is removed when the output is there. Its
//! first line holds a key of all that the results depend on; each other line a finished step.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use indexmap::IndexMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::console::say;

use super::regular;

/// Interim results under construction. The caller has locked the output.
#[derive(Debug)]
pub struct Interim {
    path: PathBuf,
    head: String,
    /// None until a step is finished: a command that fails before leaves nothing.
    file: Option<File>,
    finished: IndexMap<String, Value>,
}

impl Interim {
    /// Opens the interim results of the output `target`, or begins them anew if there are none of the same key.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or written.
    pub fn open(target: &Path, key: &str) -> Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".unfinished.jsonl");
        let path = target.with_file_name(name);
        let text = if regular::is_there(&path) {
            regular::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?
        } else {
            String::new()
        };
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let head = format!("{}\n", json!({ "key": key }));
        let is_same = lines.next() == Some(&head);
        let (mut finished, mut length) = (IndexMap::new(), head.len());
        // A line that a kill has cut short, and what might follow it, is computed again.
        let steps = lines.map_while(|line| Some((line, serde_json::from_str::<(String, Value)>(line).ok()?)));
        for (line, (step, value)) in steps.take_while(|_| is_same) {
            finished.insert(step, value);
            length += line.len();
        }
        let continued = || -> std::io::Result<File> {
            let file = OpenOptions::new().append(true).open(&path)?;
            file.set_len(length as u64)?;
            Ok(file)
        };
        let file = is_same.then(continued).transpose();
        let file = file.with_context(|| format!("{} cannot be written", path.display()))?;
        if !finished.is_empty() {
            say(&format!("{} finished steps are in {}: going on from there", finished.len(), path.display()));
        }
        Ok(Self { path, head, file, finished })
    }

    /// Returns the result of a step: as it was finished before, or as `make` computes it now.
    ///
    /// # Errors
    ///
    /// Errors of `make`, and an error if the result cannot be written.
    pub fn step<T: Serialize + DeserializeOwned>(&mut self, step: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some(value) = self.finished.get(step)
            && let Ok(found) = serde_json::from_value(value.clone())
        {
            return Ok(found);
        }
        let made = make()?;
        let line = format!("{}\n", serde_json::to_string(&(step, &made))?);
        self.write(&line).with_context(|| format!("{} cannot be written", self.path.display()))?;
        Ok(made)
    }

    fn write(&mut self, line: &str) -> std::io::Result<()> {
        if self.file.is_none() {
            let mut file = File::create(&self.path)?;
            file.write_all(self.head.as_bytes())?;
            self.file = Some(file);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }

    /// Adds to an error where the finished steps are.
    #[must_use]
    pub fn with_way_on(&self, error: anyhow::Error) -> anyhow::Error {
        let path = self.path.display();
        anyhow!("{error:#}; what was measured until then is in {path}, and the same command goes on from there")
    }

    /// Removes the file, because the output is there.
    pub fn finish(self) {
        // What is left would only be read by a command of the same key, which computes the same.
        let _ = fs::remove_file(self.path);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::cell::Cell;

    use super::*;

    /// Makes three steps, and returns their results and how many were computed.
    fn steps(target: &Path, key: &str, num_steps: usize) -> (Vec<Vec<f64>>, usize) {
        let (mut interim, computed) = (Interim::open(target, key).unwrap(), Cell::new(0));
        let step = |index: usize| {
            computed.set(computed.get() + 1);
            Ok(vec![index as f64 / 3.0, f64::MIN_POSITIVE])
        };
        let made = (0..num_steps).map(|index| interim.step(&format!("step {index}"), || step(index)).unwrap());
        (made.collect(), computed.get())
    }

    #[test]
    fn finished_steps_are_not_computed_again() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("report");
        let (first, _) = steps(&target, "a", 3);
        assert_eq!(steps(&target, "a", 4), ([&first[..], &[vec![1.0, f64::MIN_POSITIVE]]].concat(), 1));
        assert_eq!(steps(&target, "b", 3), (first.clone(), 3), "another key");
        // Killed while it wrote its last line.
        let path = folder.path().join("report.unfinished.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(steps(&target, "b", 3), (first, 1));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        Interim::open(&target, "b").unwrap().finish();
        assert!(!path.exists());
        drop(Interim::open(&target, "b").unwrap());
        assert!(!path.exists(), "nothing was finished");
    }
}
