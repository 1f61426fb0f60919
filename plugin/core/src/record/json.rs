//! One row's text → JSON. Python's `NaN` and `Infinity`, which are no JSON, are read too.

use std::fmt;

use serde_json::{Map, Value, json};

/// Key of the object that stands for a number that JSON does not have.
const NUMBER: &str = "\0number";
const NAN: &str = "NaN";
const LITERALS: [&str; 3] = ["-Infinity", "Infinity", NAN];

/// Returns true if the value stands for Python's `NaN`.
pub(super) fn is_nan(value: &Value) -> bool {
    literal(value) == Some(NAN)
}

/// Returns `NaN`, `Infinity` or `-Infinity`, if the value stands for one of these.
pub(super) fn literal(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(NUMBER)?.as_str().filter(|text| LITERALS.contains(text))
}

/// Returns the literal that a value holds at any depth.
pub(super) fn literal_within(value: &Value) -> Option<&str> {
    match value {
        Value::Array(items) => items.iter().find_map(literal_within),
        Value::Object(entries) => literal(value).or_else(|| entries.values().find_map(literal_within)),
        _ => None,
    }
}

/// Problem with a text that should be JSON.
#[derive(Debug)]
pub(super) struct NotJson {
    /// What is wrong, without its place.
    what: String,
    /// From 1; the place at which the parser stopped.
    line: usize,
    column: usize,
    is_eof: bool,
    hint: String,
}

/// Parses one row.
pub(super) fn parse(text: &str) -> Result<Value, NotJson> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(error) => {
            let places = literals(text);
            if places.is_empty() {
                return Err(NotJson::new(&error, text));
            }
            // A filler of the same length keeps the place of every other problem.
            let filled = replaced(text, &places, |literal| format!("{:>1$}", 0, literal.len()));
            match serde_json::from_str::<Value>(&filled) {
                Err(error) => Err(NotJson::new(&error, &filled)),
                Ok(_) => {
                    let marked = replaced(text, &places, |literal| json!({ NUMBER: literal }).to_string());
                    serde_json::from_str(&marked).map_err(|error| NotJson::new(&error, text))
                }
            }
        }
    }
}

/// Returns the places of the literals outside of texts.
fn literals(text: &str) -> Vec<(usize, &'static str)> {
    let bytes = text.as_bytes();
    let (mut places, mut in_text, mut at) = (Vec::new(), false, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'-' | b'I' | b'N' if !in_text => {
                let word_before = at > 0 && bytes[at - 1].is_ascii_alphanumeric();
                let found = LITERALS.into_iter().find(|literal| bytes[at..].starts_with(literal.as_bytes()));
                if let Some(literal) = found.filter(|_| !word_before) {
                    places.push((at, literal));
                    at += literal.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    places
}

fn replaced(text: &str, places: &[(usize, &str)], by: impl Fn(&str) -> String) -> String {
    let mut replaced = String::with_capacity(text.len() + 16 * places.len());
    let mut done = 0;
    for (at, literal) in places {
        replaced.push_str(&text[done..*at]);
        replaced.push_str(&by(literal));
        done = at + literal.len();
    }
    replaced.push_str(&text[done..]);
    replaced
}

impl NotJson {
    fn new(error: &serde_json::Error, text: &str) -> Self {
        let message = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = message.strip_suffix(&place).unwrap_or(&message).to_owned();
        let mut problem =
            Self { what, line: error.line(), column: error.column(), is_eof: error.is_eof(), hint: String::new() };
        if problem.what.contains("hex escape")
            && let Some((at, escape)) = lone_surrogate(text)
        {
            let before = &text[..at];
            problem.what = format!("`{escape}` is a lone surrogate, half of a character");
            problem.line = before.matches('\n').count() + 1;
            problem.column = at - before.rfind('\n').map_or(0, |end| end + 1) + 1;
            "; write both halves, or the character itself, or remove it".clone_into(&mut problem.hint);
        } else if looks_like_python(text, error) {
            "; Python wrote this value, not JSON: write records with json.dumps, numbers as float(…)"
                .clone_into(&mut problem.hint);
        }
        problem
    }

    /// Returns the problem with its place in the file; `start` is the line and column of the row's first character if
    /// it may span lines.
    pub(super) fn text(&self, start: Option<(usize, usize)>) -> String {
        let Self { what, line, column, is_eof, hint } = self;
        let place = match start {
            Some((first_line, first)) if *line <= 1 => {
                format!("line {first_line}, column {}", first + (*column).max(1) - 1)
            }
            Some((first_line, _)) => format!("line {}, column {column}", first_line + line - 1),
            None if *line <= 1 => format!("column {column}"),
            None => format!("line {line}, column {column}"),
        };
        let cut = if *is_eof && start.is_none() { "; in JSON lines each record is on one line" } else { "" };
        format!("not valid JSON: {what} at {place}{cut}{hint}")
    }
}

impl fmt::Display for NotJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(None))
    }
}

/// Returns the place of the first escape of half a UTF-16 pair that lacks the other half, and the escape.
fn lone_surrogate(text: &str) -> Option<(usize, &str)> {
    let bytes = text.as_bytes();
    let unit = |at: usize| {
        let escape = text.get(at..at + 6)?;
        u16::from_str_radix(escape.strip_prefix("\\u")?, 16).ok()
    };
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match unit(at) {
            Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => return Some((at, &text[at..at + 6])),
            _ => at += 2,
        }
    }
    None
}

/// Whether the parser stopped at something that only Python prints: `np.float64(3.5)`, `None`, `True`, a quote.
fn looks_like_python(text: &str, error: &serde_json::Error) -> bool {
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let around = line.get(error.column().saturating_sub(2)..).unwrap_or_default();
    ["np.", "array(", "None", "True", "False", "'"]
        .iter()
        .any(|word| around.strip_prefix(word).is_some() || around.get(1..).is_some_and(|rest| rest.starts_with(word)))
}

/// Removes the nulls with which a table fills the fields that a row does not have, at any depth.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        Value::Object(entries) => {
            let set = entries.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(set.map(|(key, value)| (key, without_nulls(value))).collect::<Map<_, _>>())
        }
        other => other,
    }
}
