//! Python's text: how it prints floats and quotes strings, and those of its string operations that Rust does otherwise.

/// Returns `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value.is_sign_negative() && !value.is_nan() { "-" } else { "" };
        return format!("{sign}{}", if value.is_nan() { "nan" } else { "inf" });
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if value != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{value:?}"),
    }
}

/// Returns `round(value, precision)`, which rounds ties of the decimal expansion to even.
pub(super) fn round(value: f64, precision: usize) -> f64 {
    format!("{value:.precision$}").parse().unwrap_or(value)
}

/// Returns `repr` of a string: in single quotes, unless it has these and no double ones.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c if c as u32 <= 0xff => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c as u32 <= 0xffff => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
    out
}

/// Whether Python prints a character in a `repr` as it is. Rust escapes the same general categories.
fn is_printable(c: char) -> bool {
    // After another character, so that marks that combine with it are not escaped.
    c == '"' || c == '\'' || c != '\0' && !format!("a{c}").escape_debug().skip(1).eq(c.escape_unicode())
}

/// `str.isspace` of a character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.strip(chars)`: from the left, from the right, or from both ends.
pub(super) fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let is_cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(is_cut) } else { text };
    if right { text.trim_end_matches(is_cut) } else { text }
}

/// Returns the titlecase of a character, which differs from its uppercase in ligatures and digraphs.
fn titlecase(c: char) -> String {
    match c {
        'Ǆ'..='ǆ' => "ǅ".into(),
        'Ǉ'..='ǉ' => "ǈ".into(),
        'Ǌ'..='ǌ' => "ǋ".into(),
        'Ǳ'..='ǳ' => "ǲ".into(),
        // Georgian has no titlecase.
        'ა'..='ჿ' => c.into(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().map_or_else(String::new, String::from);
            first + &upper.collect::<String>().to_lowercase()
        }
    }
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| titlecase(first) + &chars.as_str().to_lowercase())
}

/// `str.title`: every letter after one without case is titlecase, the others are lowercase.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_cased = false;
    for c in text.chars() {
        if after_cased {
            out.extend(c.to_lowercase());
        } else {
            out.push_str(&titlecase(c));
        }
        after_cased = is_cased(c);
    }
    out
}

/// Jinja's `title` filter: the first character of each word is uppercase, and words start after white space, hyphens
/// and opening brackets.
pub(super) fn title_of_jinja(text: &str) -> String {
    let is_border = |c: char| is_space(c) || "-({[<".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(is_border).filter(|&end| end > 0).unwrap_or(rest.len());
        if is_border(first) {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        out.extend(first.to_uppercase());
        out.push_str(&word[first.len_utf8()..].to_lowercase());
        rest = after;
    }
    out
}

fn is_cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
}

/// `str.islower` or, with `upper`, `str.isupper`: there is a letter with case, and all of them have this one.
pub(super) fn has_case(text: &str, upper: bool) -> bool {
    let has = |c: char| if upper { c.is_uppercase() } else { c.is_lowercase() };
    text.chars().any(has) && !text.chars().any(|c| is_cased(c) && !has(c))
}

/// `str.splitlines`.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(is_end) {
        let after = if rest[end..].starts_with("\r\n") {
            end + 2
        } else {
            end + rest[end..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { after } else { end }]);
        rest = &rest[after..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Returns the position in characters that is `bytes` into a text.
pub(super) fn chars_before(text: &str, bytes: usize) -> usize {
    text[..bytes].chars().count()
}
