//! Which files of a crate use items that its other files define.
//!
//! # What counts as a use
//!
//! A file uses the file that *defines* an item, whatever re-exports, globs and renames the path leads through. Items
//! are functions, types, traits, constants, statics and macros; naming a variant or an associated item uses its type.
//! Paths are found in `use` items, in code, and in the tokens of macros, but not in attributes; method calls are not
//! resolved. `mod child;` is not a use. A module through which no item is named counts as a use of the module's file.
//!
//! A *re-export* is a `use` item with a visibility (`pub use`, `pub(crate) use`) that names an item of a module below.
//! It does not count: a module may re-export what its children build on its own definitions. Naming the re-exported
//! item elsewhere in the same file is a use, and so is re-exporting an item from anywhere but below.

mod names;
mod resolve;
mod tokens;
mod tree;
mod uses;
mod variables;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package, Target, TargetKind};

pub use names::FileId;
pub use uses::Uses;

use tree::Tree;

/// The files of one crate and what they use from each other.
pub struct Graph {
    /// Name of the package; of a program, followed by the program's name in brackets.
    pub crate_name: String,
    pub files: Vec<SourceFile>,
}

/// A file of a crate.
pub struct SourceFile {
    /// Relative to the workspace's root.
    pub path: PathBuf,
    /// Path of its module below the crate's root.
    pub module: Vec<String>,
    pub uses: Uses,
}

/// Reads the packages of the workspace at `root`.
///
/// # Errors
///
/// Errors from `cargo metadata`.
pub fn metadata(root: &Path) -> Result<Metadata> {
    let manifest = root.join("Cargo.toml");
    MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata failed")
}

/// Reads the libraries and programs of a workspace.
///
/// # Errors
///
/// Returns an error if a file of a crate is missing or cannot be parsed.
pub fn of_workspace(metadata: &Metadata) -> Result<Vec<Graph>> {
    let root = metadata.workspace_root.as_std_path();
    let targets = metadata.workspace_packages().into_iter().flat_map(|package| {
        let targets = package.targets.iter().filter(|target| is_shipped(target));
        targets.map(move |target| (package, target))
    });
    targets.map(|(package, target)| Graph::of_target(package, target, root)).collect()
}

impl Graph {
    fn of_target(package: &Package, target: &Target, root: &Path) -> Result<Self> {
        let tree = Tree::read(target.src_path.as_std_path())?;
        let crate_name = match target.is_bin() {
            true => format!("{} [program {}]", package.name, target.name),
            false => package.name.to_string(),
        };
        let files = (0..tree.files.len()).map(|id| SourceFile {
            path: tree.files[id].path.strip_prefix(root).unwrap_or(&tree.files[id].path).to_owned(),
            module: tree.path_of(tree.files[id].module),
            uses: uses::of_file(&tree, id),
        });
        Ok(Self { crate_name, files: files.collect() })
    }

    /// Returns the files that a file uses. Re-exports do not count.
    pub fn used_by(&self, file: FileId) -> impl Iterator<Item = FileId> {
        self.files[file].uses.iter().filter(|(_, names)| names.values().any(|used| *used)).map(|(file, _)| *file)
    }

    /// Describes what `from` uses from `to`: both paths and the names.
    pub fn describe(&self, from: FileId, to: FileId) -> String {
        let names = self.files[from].uses.get(&to).into_iter().flatten();
        let names: Vec<_> = names.filter(|(_, used)| **used).map(|(name, _)| name.as_str()).collect();
        format!("{} -> {}: {}", self.files[from].path.display(), self.files[to].path.display(), names.join(", "))
    }
}

/// Whether a target is a library or a program, and not a test, benchmark, example or build script.
fn is_shipped(target: &Target) -> bool {
    use TargetKind::{Bench, CustomBuild, Example, Test};
    !target.kind.iter().any(|kind| matches!(kind, Bench | CustomBuild | Example | Test))
}
