//! Finds circles of files: files of a crate that use each other's items, directly or through other files
//! ([`crate::graph`] defines what counts as a use).

use std::path::Path;

use anyhow::{Result, bail};

use crate::graph::{self, FileId, Graph};

/// Checks that there is no circle of files in the workspace at `root`.
///
/// # Errors
///
/// Returns an error if there is a circle, or if the workspace cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let graphs = graph::of_workspace(&graph::metadata(root)?)?;
    let circles: Vec<_> = graphs.iter().flat_map(breaches).collect();
    if circles.is_empty() {
        return Ok(());
    }
    bail!("files use each other's items in a circle:\n  {}", circles.join("\n  "))
}

/// Describes each circle of a crate: its files, and what each of them uses from the others.
pub fn breaches(graph: &Graph) -> Vec<String> {
    let reached: Vec<_> = (0..graph.files.len()).map(|file| reached_from(graph, file)).collect();
    let mut circles = Vec::new();
    for (file, reached_from_file) in reached.iter().enumerate() {
        let circle: Vec<FileId> =
            (0..graph.files.len()).filter(|&other| reached_from_file[other] && reached[other][file]).collect();
        if circle.first() == Some(&file) {
            circles.push(describe(graph, &circle));
        }
    }
    circles
}

/// Returns for each file whether `start` uses it, directly or through others.
fn reached_from(graph: &Graph, start: FileId) -> Vec<bool> {
    let mut reached = vec![false; graph.files.len()];
    let mut open = vec![start];
    while let Some(file) = open.pop() {
        for used in graph.used_by(file) {
            if !std::mem::replace(&mut reached[used], true) {
                open.push(used);
            }
        }
    }
    reached
}

fn describe(graph: &Graph, circle: &[FileId]) -> String {
    let mut text = format!("{}: a circle of {} files", graph.crate_name, circle.len());
    for &file in circle {
        for used in graph.used_by(file).filter(|used| circle.contains(used)) {
            text += &format!("\n    {}", graph.describe(file, used));
        }
    }
    text
}

#[cfg(test)]
mod tests;
