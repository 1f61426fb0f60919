//! Finds paths in the tokens of macros, which are not parsed as code.

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::UseTree;

use super::names::{Import, flatten, text};

/// A name in the tokens of a macro.
pub enum Named {
    Path(Vec<String>),
    Macro(String),
    /// A path with a group, `a::{b, c}`, as in a `use` that the macro writes.
    Import(Import),
}

/// Returns what the tokens of a macro name.
///
/// A lone identifier counts if it is capitalised or called; in lower case it may as well be a variable or a field.
pub fn named(tokens: &TokenStream) -> Vec<Named> {
    let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Group(group) => {
                found.append(&mut named(&group.stream()));
                at += 1;
            }
            TokenTree::Ident(_) if follows_dot_or_path(&tokens[..at]) => at += 1,
            TokenTree::Ident(ident) => at += path(ident, &tokens[at..], &mut found),
            _ => at += 1,
        }
    }
    found
}

/// Adds the path that begins with `first`, and returns the number of its tokens.
fn path(first: &Ident, tokens: &[TokenTree], found: &mut Vec<Named>) -> usize {
    let mut path = vec![text(first)];
    let mut len = 1;
    while is_path_separator(&tokens[len..]) {
        match tokens.get(len + 2) {
            Some(TokenTree::Ident(segment)) => path.push(text(segment)),
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let tree = tokens[..len + 3].iter().cloned().collect();
                let mut imports = Vec::new();
                if let Ok(tree) = syn::parse2::<UseTree>(tree) {
                    flatten(&tree, &mut Vec::new(), &mut imports);
                }
                found.extend(imports.into_iter().map(Named::Import));
                return len + 3;
            }
            _ => break,
        }
        len += 3;
    }
    let called = match tokens.get(len) {
        Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Parenthesis,
        _ => false,
    };
    let is_macro = matches!(tokens.get(len), Some(TokenTree::Punct(mark)) if mark.as_char() == '!');
    let capitalised = path[0].starts_with(char::is_uppercase);
    match path.as_mut_slice() {
        [name] if is_macro => found.push(Named::Macro(std::mem::take(name))),
        [_] if !called && !capitalised => {}
        _ => found.push(Named::Path(path)),
    }
    len
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(first), TokenTree::Punct(second), ..]
        if first.as_char() == ':' && second.as_char() == ':')
}

/// Whether the tokens end in one that makes the next identifier a field, a method, a lifetime, or a segment of a path
/// that does not begin with an identifier of this crate.
fn follows_dot_or_path(tokens: &[TokenTree]) -> bool {
    let mark = |token: Option<&TokenTree>| match token {
        Some(TokenTree::Punct(mark)) => Some(mark.as_char()),
        _ => None,
    };
    let mut before = tokens.iter().rev();
    match (mark(before.next()), mark(before.next())) {
        (Some('.'), second) => second != Some('.'),
        (Some(':'), second) => second == Some(':'),
        (last, _) => last == Some('\''),
    }
}
