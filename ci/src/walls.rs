//! Checks the walls between the crates and inside them (ARCHITECTURE.md, "Walls"): which crates a crate may depend on,
//! where unsafe code may be, circles of files, and layers.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::Package;

use crate::{circles, graph, layers};

/// Each crate of the workspace and the crates of the workspace it may depend on, dev-dependencies included.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("lambda-dpo-concepts", &[]),
    ("lambda-dpo-abi", &[]),
    ("lambda-dpo-products", &["lambda-dpo-abi"]),
    ("lambda-dpo-core", &["lambda-dpo-concepts", "lambda-dpo-products"]),
    ("lambda-dpo-cdylib", &["lambda-dpo-concepts", "lambda-dpo-abi", "lambda-dpo-core"]),
    ("lambda-dpo-kernels", &[]),
    ("lambda-dpo", &["lambda-dpo-concepts", "lambda-dpo-abi", "lambda-dpo-kernels"]),
    (
        "lambda-dpo-tests",
        &["lambda-dpo-concepts", "lambda-dpo-abi", "lambda-dpo-core", "lambda-dpo-cdylib", "lambda-dpo"],
    ),
    (
        "lambda-dpo-fuzz",
        &["lambda-dpo-abi", "lambda-dpo-core", "lambda-dpo-fuzz-plugin", "lambda-dpo", "lambda-dpo-tests"],
    ),
    ("lambda-dpo-fuzz-plugin", &["lambda-dpo-concepts", "lambda-dpo-abi", "lambda-dpo-core"]),
    ("lambda-dpo-ci", &["lambda-dpo-abi"]),
];

/// Source folders without unsafe code, each with the parts of it that may contain some.
const SAFE: [(&str, &[&str]); 3] = [
    ("plugin/core/src", &[]),
    ("host/kernels/src", &[]),
    ("host/src", &["plugin", "libtorch", "libtorch.rs", "main.rs"]),
];

/// Checks every wall.
///
/// # Errors
///
/// Returns an error if there is a breach, naming all of them, or if the workspace cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let metadata = graph::metadata(root)?;
    let mut breaches = Vec::new();
    for package in metadata.workspace_packages() {
        check_package(package, &mut breaches);
    }
    for (folder, exceptions) in SAFE {
        for path in rust_files(&root.join(folder))? {
            let inside = path.strip_prefix(root.join(folder))?;
            if !exceptions.iter().any(|exception| inside.starts_with(exception)) {
                check_safe(&path, inside, folder, &mut breaches)?;
            }
        }
    }
    for graph in graph::of_workspace(&metadata)? {
        breaches.append(&mut circles::breaches(&graph));
        if !layers::PENDING.contains(&graph.crate_name.as_str()) {
            breaches.append(&mut layers::breaches(&graph));
        }
    }
    if breaches.is_empty() {
        return Ok(());
    }
    bail!("the walls of ARCHITECTURE.md are breached:\n  {}", breaches.join("\n  "))
}

fn check_package(package: &Package, breaches: &mut Vec<String>) {
    let name = package.name.as_str();
    let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
        breaches.push(format!("{name} is not listed in ci/src/walls.rs: add it with the crates it may depend on"));
        return;
    };
    for dependency in &package.dependencies {
        let ours = ALLOWED.iter().any(|(crate_name, _)| *crate_name == dependency.name);
        if ours && !allowed.contains(&dependency.name.as_str()) {
            breaches.push(format!("{name} must not depend on {}", dependency.name));
        }
        if name == "lambda-dpo-abi" && !dependency.optional {
            breaches.push(format!(
                "{name} must not have a dependency that is not optional, but depends on {}",
                dependency.name
            ));
        }
    }
    if name == "lambda-dpo-abi" && package.features.contains_key("default") {
        breaches.push(format!("{name} must not have a default feature"));
    }
}

fn check_safe(path: &Path, inside: &Path, folder: &str, breaches: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or(line);
        let starts = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
        if starts.iter().any(|start| code.contains(start)) {
            breaches.push(format!("{folder}/{}:{} contains unsafe code", inside.display(), number + 1));
        }
    }
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.append(&mut rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
