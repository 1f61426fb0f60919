//! The names that modules and blocks declare, read from their items.

use std::collections::HashMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::{Attribute, ForeignItem, Ident, Item, ItemUse, UseTree};

/// Index of a file of a crate.
pub type FileId = usize;
/// Index of a module of a crate.
pub type ModuleId = usize;

/// The names that a module or a block declares.
#[derive(Default)]
pub struct Names {
    pub named: HashMap<String, Vec<Entry>>,
    /// Paths of `use path::*`.
    pub globs: Vec<Vec<String>>,
}

/// What a name stands for. One name may have several entries, in the namespaces of types, values and macros.
#[derive(Clone)]
pub enum Entry {
    Item(FileId),
    Module(ModuleId),
    Import(Vec<String>),
}

/// One path that a `use` item imports.
pub struct Import {
    pub path: Vec<String>,
    pub kind: ImportKind,
}

/// How a `use` binds its path.
pub enum ImportKind {
    Name(String),
    /// `as _`: a trait in scope without a name.
    Unnamed,
    Glob,
}

impl Names {
    /// Collects the names that a list of items declares, except modules.
    pub fn of<'a>(items: impl Iterator<Item = &'a Item>, file: FileId) -> Self {
        let mut names = Self::default();
        for item in items.filter(|item| !only_in_tests(attributes(item))) {
            match item {
                Item::Use(item) => {
                    for import in imports(item) {
                        match import.kind {
                            ImportKind::Name(name) => {
                                names.named.entry(name).or_default().push(Entry::Import(import.path));
                            }
                            ImportKind::Glob => names.globs.push(import.path),
                            ImportKind::Unnamed => {}
                        }
                    }
                }
                item => {
                    for name in declared(item) {
                        names.named.entry(name).or_default().push(Entry::Item(file));
                    }
                }
            }
        }
        names
    }
}

/// Returns the names that an item declares.
fn declared(item: &Item) -> Vec<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::ForeignMod(item) => return item.items.iter().filter_map(foreign).collect(),
        Item::Macro(item) => match &item.ident {
            Some(ident) => ident,
            None => return declared_in_tokens(&item.mac.tokens),
        },
        _ => return Vec::new(),
    };
    vec![text(ident)]
}

fn foreign(item: &ForeignItem) -> Option<String> {
    match item {
        ForeignItem::Fn(item) => Some(text(&item.sig.ident)),
        ForeignItem::Static(item) => Some(text(&item.ident)),
        ForeignItem::Type(item) => Some(text(&item.ident)),
        _ => None,
    }
}

/// Returns the names after `struct`, `fn` and so on in the tokens of a macro call: items that it makes in this file.
fn declared_in_tokens(tokens: &TokenStream) -> Vec<String> {
    const KEYWORDS: [&str; 8] = ["const", "enum", "fn", "static", "struct", "trait", "type", "union"];
    let mut names = Vec::new();
    let mut after_keyword = false;
    for token in tokens.clone() {
        match token {
            TokenTree::Ident(ident) => {
                if after_keyword {
                    names.push(text(&ident));
                }
                after_keyword = KEYWORDS.iter().any(|keyword| ident == keyword);
            }
            TokenTree::Group(group) => names.append(&mut declared_in_tokens(&group.stream())),
            _ => {}
        }
    }
    names
}

/// Returns the paths that a `use` item imports.
pub fn imports(item: &ItemUse) -> Vec<Import> {
    let mut imports = Vec::new();
    // `use ::name` is another crate.
    if item.leading_colon.is_none() {
        flatten(&item.tree, &mut Vec::new(), &mut imports);
    }
    imports
}

/// Adds the paths of a `use` tree below `prefix` to `imports`.
pub fn flatten(tree: &UseTree, prefix: &mut Vec<String>, imports: &mut Vec<Import>) {
    let mut import = |prefix: &[String], ident: &Ident, rename: Option<&Ident>| {
        let mut path = prefix.to_vec();
        if ident != "self" {
            path.push(text(ident));
        }
        let name = rename.map(text).or_else(|| path.last().cloned()).unwrap_or_default();
        let kind = if name == "_" { ImportKind::Unnamed } else { ImportKind::Name(name) };
        imports.push(Import { path, kind });
    };
    match tree {
        UseTree::Path(tree) => {
            prefix.push(text(&tree.ident));
            flatten(&tree.tree, prefix, imports);
            prefix.pop();
        }
        UseTree::Name(tree) => import(prefix, &tree.ident, None),
        UseTree::Rename(tree) => import(prefix, &tree.ident, Some(&tree.rename)),
        UseTree::Glob(_) => imports.push(Import { path: prefix.clone(), kind: ImportKind::Glob }),
        UseTree::Group(group) => group.items.iter().for_each(|tree| flatten(tree, prefix, imports)),
    }
}

/// Returns whether the attributes restrict an item to tests: `#[test]`, or a `#[cfg]` that requires `test`.
pub fn only_in_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let required = || attribute.meta.require_list().is_ok_and(|list| requires_test(list.tokens.clone()));
        path.is_ident("test") || path.is_ident("cfg") && required()
    })
}

fn requires_test(tokens: TokenStream) -> bool {
    let mut operator = String::new();
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => {
            operator = ident.to_string();
            operator == "test"
        }
        TokenTree::Group(group) => operator == "all" && requires_test(group.stream()),
        _ => false,
    })
}

/// Returns the attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns an identifier without `r#`.
pub fn text(ident: &Ident) -> String {
    ident.unraw().to_string()
}
