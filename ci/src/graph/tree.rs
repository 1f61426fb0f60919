//! The module tree of one crate: its files, its modules and the names in each module.
//!
//! Code under `#[cfg(test)]` and `#[test]` is left out, including whole files.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::{Attribute, Item, ItemMod};

use super::names::{Entry, FileId, ModuleId, Names, only_in_tests, text};

/// The root module of a crate.
pub const ROOT: ModuleId = 0;

/// The files and modules of one crate. File 0 and module 0 are the root's.
#[derive(Default)]
pub struct Tree {
    pub files: Vec<SourceFile>,
    pub modules: Vec<Module>,
}

/// A parsed source file.
pub struct SourceFile {
    pub path: PathBuf,
    pub module: ModuleId,
    pub syntax: syn::File,
}

/// A module, in its own file or inline in its parent's.
pub struct Module {
    pub name: String,
    pub file: FileId,
    pub parent: Option<ModuleId>,
    pub names: Names,
    /// Macros in textual scope in this module and the modules below it.
    pub macros: HashMap<String, FileId>,
}

impl Tree {
    /// Reads the crate whose root file is `root`.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or parsed, or if the file of a `mod` is missing.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let folder = root.parent().context("a crate's root file has no folder")?;
        tree.read_file(root, "crate", None, folder)?;
        Ok(tree)
    }

    /// Returns whether `module` is below `above`.
    pub fn is_below(&self, module: ModuleId, above: ModuleId) -> bool {
        let mut parent = self.modules[module].parent;
        while let Some(id) = parent {
            if id == above {
                return true;
            }
            parent = self.modules[id].parent;
        }
        false
    }

    /// Returns the path of a module below the root.
    pub fn path_of(&self, module: ModuleId) -> Vec<String> {
        match self.modules[module].parent {
            Some(parent) => [self.path_of(parent), vec![self.modules[module].name.clone()]].concat(),
            None => Vec::new(),
        }
    }

    /// Reads a file as the module `name`; `children` is the folder of the files of its `mod` items.
    fn read_file(&mut self, path: &Path, name: &str, parent: Option<ModuleId>, children: &Path) -> Result<ModuleId> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("could not parse {}", path.display()))?;
        let items = syntax.items.clone();
        let file = self.files.len();
        self.files.push(SourceFile { path: path.to_owned(), module: self.modules.len(), syntax });
        self.read_module(&items, name, parent, file, children)
    }

    fn read_module(
        &mut self,
        items: &[Item],
        name: &str,
        parent: Option<ModuleId>,
        file: FileId,
        children: &Path,
    ) -> Result<ModuleId> {
        let id = self.modules.len();
        let (names, macros) = (Names::of(items.iter(), file), own_macros(items, file));
        self.modules.push(Module { name: name.to_owned(), file, parent, names, macros });
        for item in items {
            match item {
                Item::Mod(module) if !only_in_tests(&module.attrs) => {
                    let child = self.read_child(module, id, children)?;
                    let entry = Entry::Module(child);
                    self.modules[id].names.named.entry(text(&module.ident)).or_default().push(entry);
                    if module.attrs.iter().any(|attribute| attribute.path().is_ident("macro_use")) {
                        let macros = self.modules[child].macros.clone();
                        self.modules[id].macros.extend(macros);
                    }
                }
                Item::Macro(item) if item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export")) => {
                    if let Some(ident) = &item.ident {
                        self.modules[ROOT].names.named.entry(text(ident)).or_default().push(Entry::Item(file));
                    }
                }
                _ => {}
            }
        }
        Ok(id)
    }

    fn read_child(&mut self, module: &ItemMod, parent: ModuleId, folder: &Path) -> Result<ModuleId> {
        let name = text(&module.ident);
        let file = self.modules[parent].file;
        if let Some((_, items)) = &module.content {
            return self.read_module(items, &name, Some(parent), file, &folder.join(&name));
        }
        if let Some(path) = path_attribute(&module.attrs) {
            // Relative to the file's folder, or to the inline module's if the item is inside one.
            let inline = self.files[file].module != parent;
            let base = if inline { folder } else { self.files[file].path.parent().unwrap_or(folder) };
            let path = base.join(path);
            let children = path.parent().unwrap_or(folder).to_owned();
            return self.read_file(&path, &name, Some(parent), &children);
        }
        let children = folder.join(&name);
        for path in [folder.join(format!("{name}.rs")), children.join("mod.rs")] {
            if path.is_file() {
                return self.read_file(&path, &name, Some(parent), &children);
            }
        }
        bail!("{} declares `mod {name}`, but its file is missing", self.files[file].path.display())
    }
}

fn own_macros(items: &[Item], file: FileId) -> HashMap<String, FileId> {
    let idents = items.iter().filter_map(|item| match item {
        Item::Macro(item) => item.ident.as_ref(),
        _ => None,
    });
    idents.map(|ident| (text(ident), file)).collect()
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find(|attribute| attribute.path().is_ident("path")).and_then(|attribute| {
        let value = &attribute.meta.require_name_value().ok()?.value;
        match value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) => Some(path.value()),
            _ => None,
        }
    })
}
