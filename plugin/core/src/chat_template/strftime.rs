//! `strftime_now` without a clock.

use minijinja::{Error, ErrorKind};

/// Formats the only day that templates get: Friday, 26 July 2024, midnight (the day that Llama 3's template falls back to
/// if it is given none).
pub(super) fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        // `%-d` leaves out the padding.
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let value = match directive {
            Some('Y') => "2024",
            Some('y') => "24",
            Some('m') => "07",
            Some('B') => "July",
            Some('b' | 'h') => "Jul",
            Some('d' | 'e') => "26",
            Some('j') => "208",
            Some('A') => "Friday",
            Some('a') => "Fri",
            Some('w' | 'u') => "5",
            Some('H' | 'M' | 'S') => "00",
            Some('I') => "12",
            Some('p') => "AM",
            Some('f') => "000000",
            Some('F') => "2024-07-26",
            Some('D' | 'x') => "07/26/24",
            Some('T' | 'X') => "00:00:00",
            Some('R') => "00:00",
            Some('c') => "Fri Jul 26 00:00:00 2024",
            Some('z' | 'Z') => "",
            Some('%') => "%",
            _ => {
                let problem = format!("strftime_now does not know the format {format:?}");
                return Err(Error::new(ErrorKind::InvalidOperation, problem));
            }
        };
        text.push_str(match value {
            "00" if !padded => "0",
            value if !padded => value.trim_start_matches('0'),
            value => value,
        });
    }
    Ok(text)
}
