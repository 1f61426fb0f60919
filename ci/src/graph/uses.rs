//! Walks the code of a file and records which files define the items that it names.

use std::collections::{BTreeMap, HashSet};

use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, ExprPath, ImplItem, ImplItemFn, Item, ItemFn, ItemMod, ItemUse, Macro, PatIdent, Path, Stmt,
    TraitItemFn, TypePath, VisRestricted, Visibility,
};

use super::names::{Entry, FileId, Import, ImportKind, ModuleId, Names, attributes, imports, only_in_tests, text};
use super::resolve::{Target, lookup, resolve, textual_macro};
use super::tokens::{self, Named};
use super::tree::Tree;
use super::variables::{Variables, is_variable};

/// The names that a file uses from other files, by the other file. True for a name that is used, false for one that is
/// only re-exported from a module below.
pub type Uses = BTreeMap<FileId, BTreeMap<String, bool>>;

/// Returns the names that a file uses from other files of its crate.
pub fn of_file(tree: &Tree, file: FileId) -> Uses {
    let source = &tree.files[file];
    let mut walker = Walker {
        tree,
        file,
        module: source.module,
        blocks: Vec::new(),
        variables: Vec::new(),
        modules: Vec::new(),
        globs: Vec::new(),
        begun: HashSet::new(),
        uses: Uses::new(),
    };
    walker.visit_file(&source.syntax);
    walker.add_unused_imports();
    walker.uses
}

struct Walker<'a> {
    tree: &'a Tree,
    file: FileId,
    module: ModuleId,
    /// Names declared by the enclosing blocks, innermost last.
    blocks: Vec<Names>,
    /// Local variables of the enclosing functions, which hide functions of the same name.
    variables: Vec<HashSet<String>>,
    /// Modules that are imported by name. Such an import uses the items that are then named through the module.
    modules: Vec<(String, ModuleId)>,
    /// Modules that are imported with `*`, to which the same applies.
    globs: Vec<ModuleId>,
    /// First segments of all paths in the file.
    begun: HashSet<String>,
    uses: Uses,
}

impl Walker<'_> {
    fn add(&mut self, file: FileId, name: &str, used: bool) {
        if file != self.file {
            *self.uses.entry(file).or_default().entry(name.to_owned()).or_default() |= used;
        }
    }

    fn add_module(&mut self, module: ModuleId, name: &str, used: bool) {
        self.add(self.tree.modules[module].file, name, used);
    }

    /// Adds the items that a path in the code names, or the module if it names no item.
    fn name(&mut self, path: &[String]) {
        let Some(first) = path.first() else { return };
        self.begun.insert(first.clone());
        let hidden = self.variables.iter().any(|names| names.contains(first));
        if first == "Self" || path.len() == 1 && hidden {
            return;
        }
        let mut module = None;
        let mut is_item = false;
        for target in resolve(self.tree, self.module, &self.blocks, path) {
            match target {
                Target::Item { file, name } => {
                    is_item = true;
                    self.add(file, &name, true);
                }
                Target::Module(id) => module = Some(id),
            }
        }
        // A lone segment cannot name a module here: it is a variable or a field of that name.
        if let (Some(module), [_, .., last], false) = (module, path, is_item) {
            self.add_module(module, last, true);
        }
    }

    fn name_macro(&mut self, name: &str) {
        self.name(&[name.to_owned()]);
        if let Some(file) = textual_macro(self.tree, self.module, name) {
            self.add(file, name, true);
        }
    }

    fn import(&mut self, import: &Import, re_exported: bool) {
        self.begun.extend(import.path.first().cloned());
        let targets = resolve(self.tree, self.module, &self.blocks, &import.path);
        let any_item = targets.iter().any(|target| matches!(target, Target::Item { .. }));
        for target in targets {
            match (target, &import.kind) {
                (Target::Item { file, name }, _) => {
                    let used = !(re_exported && self.tree.is_below(self.tree.files[file].module, self.module));
                    self.add(file, &name, used);
                }
                (Target::Module(module), ImportKind::Glob)
                    if re_exported && self.tree.is_below(module, self.module) =>
                {
                    self.add_module(module, "*", false);
                }
                (Target::Module(module), ImportKind::Glob) => self.globs.push(module),
                (Target::Module(module), ImportKind::Name(name)) if !any_item => {
                    self.modules.push((name.clone(), module));
                }
                (Target::Module(_), _) => {}
            }
        }
    }

    /// Adds the imported modules through which the file names no item.
    fn add_unused_imports(&mut self) {
        for (name, module) in std::mem::take(&mut self.modules) {
            if !self.begun.contains(&name) {
                self.add_module(module, &name, true);
            }
        }
        for module in std::mem::take(&mut self.globs) {
            let named = |name: &String| lookup(self.tree, module, name, &mut Vec::new()).is_some();
            if !self.begun.iter().any(named) {
                self.add_module(module, "*", true);
            }
        }
    }

    fn in_function(&mut self, variables: Variables, walk: impl FnOnce(&mut Self)) {
        self.variables.push(variables.0);
        walk(self);
        self.variables.pop();
    }
}

impl<'ast> Visit<'ast> for Walker<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_in_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes: &[Attribute] = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            ImplItem::Macro(item) => &item.attrs,
            _ => &[],
        };
        if !only_in_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let entries = self.tree.modules[self.module].names.named.get(&text(&item.ident));
        let inline = entries.into_iter().flatten().find_map(|entry| match entry {
            Entry::Module(id) if item.content.is_some() => Some(*id),
            _ => None,
        });
        if let Some(inline) = inline {
            let outer = std::mem::replace(&mut self.module, inline);
            let (blocks, variables) = (std::mem::take(&mut self.blocks), std::mem::take(&mut self.variables));
            visit::visit_item_mod(self, item);
            (self.module, self.blocks, self.variables) = (outer, blocks, variables);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for import in imports(item) {
            self.import(&import, !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_block(&mut self, block: &'ast Block) {
        let items = block.stmts.iter().filter_map(|statement| match statement {
            Stmt::Item(item) => Some(item),
            _ => None,
        });
        self.blocks.push(Names::of(items, self.file));
        visit::visit_block(self, block);
        self.blocks.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.in_function(Variables::of(|names| names.visit_item_fn(item)), |walker| visit::visit_item_fn(walker, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        let variables = Variables::of(|names| names.visit_impl_item_fn(item));
        self.in_function(variables, |walker| visit::visit_impl_item_fn(walker, item));
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        let variables = Variables::of(|names| names.visit_trait_item_fn(item));
        self.in_function(variables, |walker| visit::visit_trait_item_fn(walker, item));
    }

    fn visit_path(&mut self, path: &'ast Path) {
        // `::name` is another crate.
        if path.leading_colon.is_none() {
            let segments: Vec<_> = path.segments.iter().map(|segment| text(&segment.ident)).collect();
            self.name(&segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, path: &'ast ExprPath) {
        match &path.qself {
            // In `<Type>::name` the name belongs to the type.
            Some(qself) if qself.position == 0 => self.visit_type(&qself.ty),
            _ => visit::visit_expr_path(self, path),
        }
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        match &path.qself {
            Some(qself) if qself.position == 0 => self.visit_type(&qself.ty),
            _ => visit::visit_type_path(self, path),
        }
    }

    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        let name = text(&pattern.ident);
        if !is_variable(&name) {
            self.name(&[name]);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        match call.path.get_ident() {
            Some(ident) => self.name_macro(&text(ident)),
            None => self.visit_path(&call.path),
        }
        for named in tokens::named(&call.tokens) {
            match named {
                Named::Path(path) => self.name(&path),
                Named::Macro(name) => self.name_macro(&name),
                Named::Import(import) => self.import(&import, false),
            }
        }
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    /// `pub(in path)` names no item.
    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {}
}
