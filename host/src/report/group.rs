//! Runs that differ only by seed: one row.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::names::{common, of_folders};
use super::run::Run;

/// Keys in which runs of one given name may differ: pipelines train each seed's start, and its reference, from that seed.
const START_KEYS: [&str; 2] = ["model.path", "reference.path"];

/// A row: a run, or several that differ only by seed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) name: String,
    /// Indices of its runs, in their order on the command line.
    pub(super) runs: Vec<usize>,
}

/// Returns the names of the runs, and the rows in the order in which they first occur.
///
/// Runs with a given name are a row. Others are one if their configs are equal apart from the seed; a run without a config
/// has a row to itself.
///
/// # Errors
///
/// Returns an error if a folder or a seed occurs twice in a row, runs with one given name differ in more than their seed
/// and start, the runs of a row were evaluated differently, or two rows have one name.
pub(super) fn group(runs: &[Run]) -> Result<(Vec<String>, Vec<Group>)> {
    check_folders(runs)?;
    let folders: Vec<_> = runs.iter().map(|run| run.folder.as_path()).collect();
    let names = of_folders(&folders);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (index, run) in runs.iter().enumerate() {
        let belongs = |group: &&mut Vec<usize>| match (&run.given_name, &runs[group[0]].given_name) {
            (None, None) => run.settings.is_some() && run.settings == runs[group[0]].settings,
            (name, other) => name == other,
        };
        match groups.iter_mut().find(belongs) {
            Some(group) => group.push(index),
            None => groups.push(vec![index]),
        }
    }
    let mut found: Vec<Group> = Vec::new();
    for members in groups {
        check(&members.iter().map(|&index| &runs[index]).collect::<Vec<_>>())?;
        let own: Vec<&str> = members.iter().map(|&index| names[index].as_str()).collect();
        let name = runs[members[0]].given_name.clone().unwrap_or_else(|| common(&own));
        if let Some(other) = found.iter().find(|group| group.name == name) {
            bail!(
                "{} and {} are rows of their own, but would both be called {name}: name one with NAME=RUN",
                runs[other.runs[0]].folder.display(),
                runs[members[0]].folder.display()
            );
        }
        found.push(Group { name, runs: members });
    }
    Ok((names, found))
}

fn check_folders(runs: &[Run]) -> Result<()> {
    let resolved = |run: &Run| std::fs::canonicalize(&run.folder).unwrap_or_else(|_| run.folder.clone());
    let folders: Vec<_> = runs.iter().map(resolved).collect();
    for (index, folder) in folders.iter().enumerate() {
        if folders[..index].contains(folder) {
            bail!("{} is given twice: leave one out", runs[index].folder.display());
        }
    }
    Ok(())
}

/// Checks that a mean over the runs of a row says something.
fn check(runs: &[&Run]) -> Result<()> {
    let [first, others @ ..] = runs else { return Ok(()) };
    for (index, run) in others.iter().enumerate() {
        let before = &runs[..=index];
        if let (Some(seed), Some(other)) = (run.seed, before.iter().find(|other| other.seed == run.seed)) {
            bail!(
                "{} and {} are the same run with the same seed, {seed}: leave one out, or name them apart with NAME=RUN",
                other.folder.display(),
                run.folder.display()
            );
        }
        if let (Some(name), Some(settings), Some(other)) = (&run.given_name, &run.settings, &first.settings)
            && let Some((key, left, right)) = difference(other, settings, &START_KEYS)
        {
            bail!(
                "{name} names {} and {}, which differ in {key} ({left} and {right}): give them different names",
                first.folder.display(),
                run.folder.display()
            );
        }
        if let (Some(settings), Some(other)) = (evaluated(run), evaluated(first))
            && let Some((key, left, right)) = difference(&other, &settings, &["seed", "against"])
        {
            bail!(
                "{} and {} are one row, but were evaluated with different {key} ({left} and {right}): evaluate them alike, \
                 or name them apart with NAME=RUN",
                first.folder.display(),
                run.folder.display()
            );
        }
    }
    Ok(())
}

/// Returns how a run was evaluated.
fn evaluated(run: &Run) -> Option<Map<String, Value>> {
    match serde_json::to_value(&run.evaluation.as_ref()?.settings) {
        Ok(Value::Object(settings)) => Some(settings),
        _ => None,
    }
}

/// Returns the first key, except for those that may differ, in which two settings differ, and the two values.
fn difference(
    left: &Map<String, Value>,
    right: &Map<String, Value>,
    may_differ: &[&str],
) -> Option<(String, String, String)> {
    let show = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), Value::to_string);
    let keys = left.keys().chain(right.keys()).filter(|key| !may_differ.contains(&key.as_str()));
    let mut different = keys.filter(|key| left.get(*key) != right.get(*key));
    different.next().map(|key| (key.clone(), show(left.get(key)), show(right.get(key))))
}
