//! The layers of the crates: which top-level modules may use which (ARCHITECTURE.md, "Layers").

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use crate::graph::{self, Graph};

/// The layers of one crate from the ground up, each a list of top-level modules.
type Layers = &'static [&'static [&'static str]];

/// The crates that have layers. A module may use modules of lower layers, but not its neighbours in the same layer. The
/// root file is above all layers.
const LAYERS: [(&str, Layers); 2] = [
    (
        "lambda-dpo-core",
        &[
            &["error"],
            &["record"],
            &["convert"],
            &["chat_template"],
            &["tokenize"],
            &["lambda"],
            &["collate"],
            &["log_probs"],
            &["loss"],
            &["dataset"],
        ],
    ),
    (
        "lambda-dpo",
        &[
            &["console", "interrupt", "libtorch", "plot", "page"],
            &["files"],
            &["config"],
            &["plugin"],
            &["model"],
            &["metrics", "export"],
            &["lambda", "policy"],
            &["generate"],
            &["answers"],
            &["train"],
            &["steer"],
            &["schedule"],
            &["evaluate"],
            &["report"],
            &["serve"],
            &["cli"],
            &["commands"],
        ],
    ),
];

/// Crates whose layers the wall check does not enforce yet.
pub const PENDING: &[&str] = &[];

/// Checks the layers of every crate in the workspace at `root`, including those that the wall check does not enforce
/// yet.
///
/// # Errors
///
/// Returns an error if there is a breach, or if the workspace cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let graphs = graph::of_workspace(&graph::metadata(root)?)?;
    let breaches: Vec<_> = graphs.iter().flat_map(breaches).collect();
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("modules use modules that are not in a lower layer:\n  {}", breaches.join("\n  "))
}

/// Describes each breach of a crate's layers.
pub fn breaches(graph: &Graph) -> Vec<String> {
    let layers = LAYERS.iter().find(|(name, _)| *name == graph.crate_name);
    layers.map_or_else(Vec::new, |(_, layers)| breaches_of(graph, layers))
}

fn breaches_of(graph: &Graph, layers: Layers) -> Vec<String> {
    let layer_of = |module: &str| layers.iter().position(|layer| layer.contains(&module));
    let modules: BTreeSet<_> = graph.files.iter().filter_map(|file| file.module.first()).collect();
    let mut breaches = Vec::new();
    for module in modules.iter().filter(|module| layer_of(module).is_none()) {
        breaches.push(format!("{}: module `{module}` is in no layer: add it to ci/src/layers.rs", graph.crate_name));
    }
    for module in layers.iter().copied().flatten().filter(|module| !modules.iter().any(|name| name == *module)) {
        breaches.push(format!("{}: ci/src/layers.rs lists `{module}`, which is not a module", graph.crate_name));
    }
    for (id, file) in graph.files.iter().enumerate() {
        let Some(user) = file.module.first() else { continue };
        for &to in file.uses.keys() {
            let used = graph.files[to].module.first();
            let allowed = used.is_some_and(|used| {
                used == user || layer_of(used).zip(layer_of(user)).is_none_or(|(used, user)| used < user)
            });
            if !allowed {
                let used = used.map_or("the root file".into(), |used| format!("`{used}`"));
                let names = graph.describe(id, to);
                breaches.push(format!("{}: `{user}` must not use {used}\n    {names}", graph.crate_name));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests;
