//! Which files of a crate name items that others of its files define.
//!
//! # What counts
//!
//! A file is tied to the file that *defines* an item, wherever the path to it leads through: re-exports, globs and renames
//! are followed. Items are functions, types, traits, constants, statics and macros; a variant or an associated item ties
//! to its type. Paths are found in `use`, in code, and in the tokens of macros; attributes and method calls are not
//! looked at. `mod child;` ties nothing. A module named without an item in it ties to the module's file.
//!
//! A *re-export* is a `use` with a visibility (`pub use`, `pub(crate) use`) of an item of a module below. It is the face
//! of its door file, not a use; so a door may re-export what is built on its own definitions. Naming the re-exported item
//! in the door's code is a use, and so is re-exporting an item that lies elsewhere.

mod names;
mod resolve;
mod tokens;
mod tree;
mod uses;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package, Target, TargetKind};

pub use names::FileId;
pub use uses::Ties;

use tree::Tree;

/// The files of one crate and the names that tie them.
pub struct Graph {
    /// The name of the package, followed by the program's in brackets if it is one.
    pub crate_name: String,
    pub files: Vec<SourceFile>,
}

/// A file of a crate.
pub struct SourceFile {
    /// Relative to the workspace's root.
    pub path: PathBuf,
    /// Names of its module and those above it, without the root's.
    pub module: Vec<String>,
    pub ties: Ties,
}

/// Lists the packages of the workspace at `root`.
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
            ties: uses::ties(&tree, id),
        });
        Ok(Self { crate_name, files: files.collect() })
    }

    /// The files whose items a file uses, re-exports not counted.
    pub fn used_by(&self, file: FileId) -> impl Iterator<Item = FileId> {
        self.files[file].ties.iter().filter(|(_, names)| names.values().any(|used| *used)).map(|(file, _)| *file)
    }

    /// Describes what ties `from` to `to`: both paths and the names that are used.
    pub fn tie(&self, from: FileId, to: FileId) -> String {
        let names = self.files[from].ties.get(&to).into_iter().flatten();
        let names: Vec<_> = names.filter(|(_, used)| **used).map(|(name, _)| name.as_str()).collect();
        format!("{} -> {}: {}", self.files[from].path.display(), self.files[to].path.display(), names.join(", "))
    }
}

/// Whether a target is a library or a program, and not a test, benchmark, example or build script.
fn is_shipped(target: &Target) -> bool {
    use TargetKind::{Bench, CustomBuild, Example, Test};
    !target.kind.iter().any(|kind| matches!(kind, Bench | CustomBuild | Example | Test))
}
