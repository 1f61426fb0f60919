//! Finds the variables that a function binds.

use std::collections::HashSet;

use syn::PatIdent;
use syn::visit::{self, Visit};

use super::names::text;

/// The names of the variables that a function binds anywhere in its signature or body.
pub struct Variables(pub HashSet<String>);

impl Variables {
    /// Collects the variables of the function that `walk` visits.
    pub fn of(walk: impl FnOnce(&mut Self)) -> Self {
        let mut names = Self(HashSet::new());
        walk(&mut names);
        names
    }
}

impl<'ast> Visit<'ast> for Variables {
    fn visit_pat_ident(&mut self, pattern: &'ast PatIdent) {
        let name = text(&pattern.ident);
        if is_variable(&name) {
            self.0.insert(name);
        }
        visit::visit_pat_ident(self, pattern);
    }
}

/// Whether an identifier in a pattern binds a variable; the others are constants and unit structs.
pub fn is_variable(name: &str) -> bool {
    !name.starts_with(char::is_uppercase)
}
