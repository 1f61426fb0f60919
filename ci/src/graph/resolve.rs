//! Resolves paths to the items and modules of their crate.

use super::names::{Entry, FileId, ModuleId, Names};
use super::tree::{ROOT, Tree};

/// What a path names.
#[derive(Clone)]
pub enum Target {
    /// An item and the file that defines it, found through any re-exports.
    Item {
        file: FileId,
        name: String,
    },
    Module(ModuleId),
}

/// The imports that are being resolved: one that leads back to itself is not followed again.
type Trail = Vec<*const Vec<String>>;

/// Resolves `path`, written in `module` inside `blocks`, the names of the enclosing blocks, innermost last.
///
/// Returns nothing if the path leads out of the crate. A name may have several targets, as a module and a function may
/// share it.
pub fn resolve(tree: &Tree, module: ModuleId, blocks: &[Names], path: &[String]) -> Vec<Target> {
    let mut trail = Trail::new();
    if let Some((first, rest)) = path.split_first() {
        let in_block = |names| lookup_in(tree, module, names, first, &mut trail);
        if let Some(targets) = blocks.iter().rev().find_map(in_block) {
            return follow(tree, targets, rest, &mut trail);
        }
    }
    from_module(tree, module, path, &mut trail).unwrap_or_default()
}

/// The file that defines the macro `name`, if it is in textual scope in `module`.
pub fn textual_macro(tree: &Tree, module: ModuleId, name: &str) -> Option<FileId> {
    let mut scope = Some(module);
    while let Some(id) = scope {
        if let Some(file) = tree.modules[id].macros.get(name) {
            return Some(*file);
        }
        scope = tree.modules[id].parent;
    }
    None
}

fn from_module(tree: &Tree, module: ModuleId, path: &[String], trail: &mut Trail) -> Option<Vec<Target>> {
    let (first, mut rest) = path.split_first()?;
    let targets = match first.as_str() {
        "crate" => vec![Target::Module(ROOT)],
        "self" => vec![Target::Module(module)],
        "super" => {
            let mut above = tree.modules[module].parent?;
            while rest.first().is_some_and(|segment| segment == "super") {
                above = tree.modules[above].parent?;
                rest = &rest[1..];
            }
            vec![Target::Module(above)]
        }
        first => lookup(tree, module, first, trail)?,
    };
    Some(follow(tree, targets, rest, trail))
}

/// Follows the remaining segments of a path. Segments after an item are its variants or associated items, so the item
/// stays the target; a segment that its module does not declare is taken for an item made there by a macro.
fn follow(tree: &Tree, mut targets: Vec<Target>, path: &[String], trail: &mut Trail) -> Vec<Target> {
    for segment in path {
        let (mut found, mut declared) = (Vec::new(), false);
        for target in &targets {
            if let Target::Module(module) = target
                && let Some(mut inside) = lookup(tree, *module, segment, trail)
            {
                declared = true;
                found.append(&mut inside);
            }
        }
        if !declared {
            found = targets.iter().filter(|target| matches!(target, Target::Item { .. })).cloned().collect();
        }
        if !declared && found.is_empty() {
            found = targets.iter().map(|target| made_by_macro(tree, target, segment)).collect();
        }
        targets = found;
    }
    targets
}

fn made_by_macro(tree: &Tree, target: &Target, name: &str) -> Target {
    match target {
        Target::Module(module) => Target::Item { file: tree.modules[*module].file, name: name.to_owned() },
        item @ Target::Item { .. } => item.clone(),
    }
}

/// Returns what `name` stands for in a module, or `None` if the module does not declare it.
pub fn lookup(tree: &Tree, module: ModuleId, name: &str, trail: &mut Trail) -> Option<Vec<Target>> {
    lookup_in(tree, module, &tree.modules[module].names, name, trail)
}

fn lookup_in(tree: &Tree, module: ModuleId, names: &Names, name: &str, trail: &mut Trail) -> Option<Vec<Target>> {
    if let Some(entries) = names.named.get(name) {
        let mut targets = Vec::new();
        for entry in entries {
            match entry {
                Entry::Item(file) => targets.push(Target::Item { file: *file, name: name.to_owned() }),
                Entry::Module(id) => targets.push(Target::Module(*id)),
                Entry::Import(path) => targets.append(&mut import(tree, module, path, trail)),
            }
        }
        return Some(targets);
    }
    for path in &names.globs {
        for target in import(tree, module, path, trail) {
            if let Target::Module(glob) = target {
                trail.push(path);
                let found = lookup(tree, glob, name, trail);
                trail.pop();
                if found.is_some() {
                    return found;
                }
            }
        }
    }
    None
}

fn import(tree: &Tree, module: ModuleId, path: &Vec<String>, trail: &mut Trail) -> Vec<Target> {
    if trail.contains(&std::ptr::from_ref(path)) {
        return Vec::new();
    }
    trail.push(path);
    let targets = from_module(tree, module, path, trail).unwrap_or_default();
    trail.pop();
    targets
}
