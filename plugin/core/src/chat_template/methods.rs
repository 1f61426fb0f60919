//! Methods of Python's strings, dictionaries and lists that minijinja lacks or that its own differ from.

use minijinja::value::{ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::filters::pairs;
use super::python;
use super::values::{list, tuple, view};

/// Calls a method of a value.
pub(super) fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Map => of_dict(value, method, args)?,
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn invalid(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

fn of_string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let all = |is: fn(char) -> bool| Ok::<_, Error>(Value::from(!text.is_empty() && text.chars().all(is)));
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(python::strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(python::title(text))
        }
        "capitalize" => {
            let () = from_args(args)?;
            Value::from(python::capitalize(text))
        }
        "isspace" => all(python::is_space)?,
        "isalpha" => all(char::is_alphabetic)?,
        "isalnum" => all(char::is_alphanumeric)?,
        "isdigit" | "isnumeric" | "isdecimal" if text.is_ascii() => all(|c| c.is_ascii_digit())?,
        "isdigit" | "isnumeric" | "isdecimal" => return Err(invalid("digits of other scripts are not told apart")),
        "islower" => Value::from(python::has_case(text, false)),
        "isupper" => Value::from(python::has_case(text, true)),
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            list(python::lines(text, keep_ends.unwrap_or(false)).into_iter().map(Value::from).collect())
        }
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "find" | "rfind" | "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let found = if method.starts_with('r') { text.rfind(part) } else { text.find(part) };
            match found {
                Some(bytes) => Value::from(python::chars_before(text, bytes)),
                None if method.ends_with("index") => return Err(invalid("substring not found")),
                None => Value::from(-1),
            }
        }
        "count" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() })
        }
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(part).unwrap_or(text))
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(part).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(args)?;
            if part.is_empty() {
                return Err(invalid("empty separator"));
            }
            let (found, missing) = match method {
                "partition" => (text.split_once(part), [text, "", ""]),
                _ => (text.rsplit_once(part), ["", "", text]),
            };
            let parts = found.map_or(missing, |(before, after)| [before, part, after]);
            tuple(parts.map(Value::from).to_vec())
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let items = items.try_iter()?.map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
            Value::from(items.ok_or_else(|| invalid("join takes texts"))?.join(text))
        }
        _ => return Ok(None),
    }))
}

/// `str.split` or, from the right, `str.rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, options): (Option<Value>, Option<i64>, minijinja::value::Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| options.get::<Option<Value>>("sep"), |given| Ok(Some(given)))?;
    let most = most.map_or_else(|| options.get::<Option<i64>>("maxsplit"), |given| Ok(Some(given)))?.unwrap_or(-1);
    options.assert_all_used()?;
    let num_parts = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        Some(separator) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty());
            let separator = separator.ok_or_else(|| invalid("split takes a text that is not empty"))?;
            if from_right {
                text.rsplitn(num_parts, separator).collect()
            } else {
                text.splitn(num_parts, separator).collect()
            }
        }
        None => words(text, from_right, num_parts),
    };
    if from_right {
        parts.reverse();
    }
    Ok(list(parts.into_iter().map(Value::from).collect()))
}

/// Splits a text at white space into at most `num_parts` parts, in the order in which they are found.
fn words(text: &str, from_right: bool, num_parts: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = python::strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        let border = if from_right { rest.rfind(python::is_space) } else { rest.find(python::is_space) };
        let Some(border) = border.filter(|_| parts.len() + 1 < num_parts) else {
            parts.push(rest);
            break;
        };
        let after = border + rest[border..].chars().next().map_or(1, char::len_utf8);
        let (part, others) =
            if from_right { (&rest[after..], &rest[..border]) } else { (&rest[..border], &rest[after..]) };
        parts.push(part);
        rest = python::strip(others, None, !from_right, from_right);
    }
    parts
}

fn of_dict(dict: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "keys" => {
            let () = from_args(args)?;
            view("dict_keys", dict.try_iter()?.collect())
        }
        "values" => {
            let () = from_args(args)?;
            let values = dict.try_iter()?.map(|key| dict.get_item(&key));
            view("dict_values", values.collect::<Result<_, _>>()?)
        }
        "items" => {
            let () = from_args(args)?;
            view("dict_items", pairs(dict)?)
        }
        _ => return Ok(None),
    }))
}
