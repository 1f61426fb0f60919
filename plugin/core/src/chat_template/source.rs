//! The source of a template, rewritten where minijinja reads it differently from Jinja2.

use std::ops::Range;

/// Functions that a template calls to make lists, tuples and dictionaries of its own; see [`rewritten`].
pub(super) const LIST: &str = "__list";
/// Makes a tuple.
pub(super) const TUPLE: &str = "__tuple";
/// Makes a dictionary.
pub(super) const DICT: &str = "__dict";

/// The filter that makes a list of a slice of one.
pub(super) const SLICED: &str = "__sliced";

/// Returns a source that means in minijinja what `source` means in Jinja2.
///
/// - CRLF and CR are line breaks.
/// - `{% generation %} … {% endgeneration %}`, which marks what the model says and renders as its content, becomes a
///   block that minijinja knows and that renders the same.
/// - The literals `[…]`, `(…, …)` and `{…: …}` become calls that make values with Python's types, and so do slices.
pub(super) fn rewritten(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source.as_str();
    let mut is_raw = false;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = match rest.as_bytes().get(1) {
            Some(b'#') if !is_raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'%') if is_raw => {
                is_raw = !is_tag(rest, "endraw");
                1
            }
            Some(b'%') if is_tag(rest, "raw") => {
                is_raw = true;
                1
            }
            Some(b'%' | b'{') if !is_raw => {
                let (tag, length) = expression(rest);
                out.push_str(&without_generation(tag));
                rest = &rest[length..];
                continue;
            }
            _ => 1,
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

fn is_tag(text: &str, name: &str) -> bool {
    let inside = text.trim_start_matches("{%").trim_start_matches(['-', '+']).trim_start();
    inside.strip_prefix(name).is_some_and(|rest| {
        let rest = rest.trim_start();
        rest.trim_start_matches(['-', '+']).starts_with("%}")
    })
}

fn without_generation(tag: String) -> String {
    let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
    match name {
        "generation" => tag.replace("generation", "if true"),
        "endgeneration" => tag.replace("endgeneration", "endif"),
        _ => tag,
    }
}

/// A token of an expression; what matters is whether a bracket after it opens a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// An operand: a bracket after it is a call or a subscript.
    Operand,
    /// An operator, or the start.
    Operator,
    /// A keyword that names follow: a bracket after it encloses targets or parameters.
    Targets,
}

/// An open bracket.
struct Open {
    /// Where it stands in the rewritten tag.
    at: usize,
    bracket: u8,
    is_literal: bool,
    has_comma: bool,
    has_colon: bool,
}

/// Reads the tag at the start of `text`, and returns it with its literals rewritten, and its length in `text`.
fn expression(text: &str) -> (String, usize) {
    let bytes = text.as_bytes();
    let end = if bytes.get(1) == Some(&b'%') { "%}" } else { "}}" };
    let mut out = text[..2].to_owned();
    let mut stack: Vec<Open> = Vec::new();
    let mut before = Before::Operator;
    let mut at = 2;
    while let Some(&byte) = bytes.get(at) {
        if stack.is_empty() && text[at..].starts_with(end) {
            out.push_str(end);
            return (out, at + 2);
        }
        let token = token(text, at);
        let word = &text[token.clone()];
        at = token.end;
        match byte {
            b'(' | b'[' | b'{' => {
                let is_literal = before == Before::Operator;
                stack.push(Open { at: out.len(), bracket: byte, is_literal, has_comma: false, has_colon: false });
                out.push_str(word);
                before = if before == Before::Targets { Before::Targets } else { Before::Operator };
            }
            b')' | b']' | b'}' => {
                close(&mut out, stack.pop(), byte, &text[at..]);
                before = Before::Operand;
            }
            _ => {
                if let Some(open) = stack.last_mut() {
                    open.has_comma |= byte == b',';
                    open.has_colon |= byte == b':';
                }
                out.push_str(word);
                before = match byte {
                    _ if byte.is_ascii_whitespace() => before,
                    b'\'' | b'"' | b'0'..=b'9' => Before::Operand,
                    _ => match word {
                        "for" | "set" | "call" | "macro" => Before::Targets,
                        "in" | "if" | "else" | "elif" | "and" | "or" | "not" | "is" | "with" => Before::Operator,
                        _ if is_name(byte) => Before::Operand,
                        _ => Before::Operator,
                    },
                };
            }
        }
    }
    // It does not end: minijinja says so.
    (text.to_owned(), text.len())
}

/// Writes a closing bracket, before `rest`, and what makes a call of the literal, or a list of the slice, that it ends.
fn close(out: &mut String, open: Option<Open>, bracket: u8, rest: &str) {
    let Some(open) = open.filter(|open| open.is_literal || open.has_colon) else {
        out.push(char::from(bracket));
        return;
    };
    if !open.is_literal {
        out.push(char::from(bracket));
        // What is looked up in the slice has no use for a list, and could not follow a filter.
        if open.bracket == b'[' && !rest.trim_start().starts_with(['[', '(', '.']) {
            out.push_str(&format!(" | {SLICED}"));
        }
        return;
    }
    let is_empty = out[open.at + 1..].trim().is_empty();
    match open.bracket {
        b'(' if open.has_comma || is_empty => {
            out.replace_range(open.at..=open.at, &format!("{TUPLE}(["));
            out.push_str("])");
        }
        b'(' => out.push(char::from(bracket)),
        kind => {
            out.insert_str(open.at, &format!("{}(", if kind == b'[' { LIST } else { DICT }));
            out.push(char::from(bracket));
            out.push(')');
        }
    }
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Returns the place of the token that starts at `at`: a string, a name or number, or a single character.
fn token(text: &str, at: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    let first = bytes[at];
    let mut end = at + 1;
    if first == b'\'' || first == b'"' {
        while let Some(&byte) = bytes.get(end) {
            end += if byte == b'\\' { 2 } else { 1 };
            if byte == first {
                break;
            }
        }
    } else if is_name(first) {
        while bytes.get(end).copied().is_some_and(is_name) {
            end += 1;
        }
    }
    let mut end = end.min(bytes.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    at..end
}
