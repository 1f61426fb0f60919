//! Jinja2's filters where minijinja's do something else.

use std::borrow::Cow;
use std::cmp::Ordering;

use minijinja::value::{Kwargs, Rest, ValueIter, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::python;
use super::values::{self, entries, generator, list, text, tuple};

/// Filters of minijinja that Jinja2 does not have, or that differ in ways that no template for chats needs.
const REMOVED: [&str; 10] = ["attr", "batch", "bool", "chain", "groupby", "lines", "pprint", "slice", "split", "zip"];

pub(super) fn add(environment: &mut Environment) {
    for name in REMOVED {
        environment.remove_filter(name);
    }
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("first", |value: &Value| Ok::<_, Error>(iterated(value)?.next().unwrap_or_default()));
    environment.add_filter("last", |value: &Value| Ok::<_, Error>(iterated(value)?.last().unwrap_or_default()));
    environment.add_filter("min", |value: &Value, options: Kwargs| extreme(value, &options, Ordering::Less));
    environment.add_filter("max", |value: &Value, options: Kwargs| extreme(value, &options, Ordering::Greater));
    environment.add_filter("string", |value: &Value| text(value));
    environment.add_filter("upper", |value: &Value| text(value).to_uppercase());
    environment.add_filter("lower", |value: &Value| text(value).to_lowercase());
    environment.add_filter("title", |value: &Value| python::title_of_jinja(&text(value)));
    environment.add_filter("capitalize", |value: &Value| python::capitalize(&text(value)));
    environment.add_filter("trim", trim);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("safe", |value: &Value| text(value));
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("join", join);
    environment.add_filter("round", round);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("list", |state: &State, value: Value| listed(filters::list(state, value)?));
    environment.add_filter("sort", |state: &State, value: Value, options: Kwargs| {
        listed(filters::sort(state, value, options)?)
    });
    environment.add_filter("dictsort", |value: &Value, options: Kwargs| {
        let pairs = filters::dictsort(value, options)?.try_iter()?;
        Ok::<_, Error>(list(pairs.map(|pair| Ok(tuple(pair.try_iter()?.collect()))).collect::<Result<_, Error>>()?))
    });
    environment.add_filter("items", |mapping: &Value| match mapping.kind() {
        ValueKind::Undefined => Ok(generator(Vec::new())),
        ValueKind::Map => Ok(generator(pairs(mapping)?)),
        _ => Err(invalid("items takes a mapping")),
    });
    environment.add_filter("reverse", reverse);
    environment.add_filter("unique", |state: &State, value: Value, options: Kwargs| {
        generated(filters::unique(state, value, options)?)
    });
    environment.add_filter("map", |state: &State, value: Value, args: Rest<Value>| {
        filters::map(state, value, args).map(generator)
    });
    environment.add_filter("select", |state: &State, value: Value, test: Option<Cow<'_, str>>, args: Rest<Value>| {
        filters::select(state, value, test, args).map(generator)
    });
    environment.add_filter("reject", |state: &State, value: Value, test: Option<Cow<'_, str>>, args: Rest<Value>| {
        filters::reject(state, value, test, args).map(generator)
    });
    environment.add_filter(
        "selectattr",
        |state: &State, value: Value, attribute: Cow<'_, str>, test: Option<Cow<'_, str>>, args: Rest<Value>| {
            filters::selectattr(state, value, attribute, test, args).map(generator)
        },
    );
    environment.add_filter(
        "rejectattr",
        |state: &State, value: Value, attribute: Cow<'_, str>, test: Option<Cow<'_, str>>, args: Rest<Value>| {
            filters::rejectattr(state, value, attribute, test, args).map(generator)
        },
    );
}

fn invalid(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// Returns the items of what Python can iterate over.
fn iterated(value: &Value) -> Result<ValueIter, Error> {
    match value.kind() {
        ValueKind::None => Err(invalid("None has no items")),
        _ => value.try_iter(),
    }
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.len() {
        Some(length) => Ok(length),
        None if value.is_undefined() => Ok(0),
        None => Err(invalid("it has no length")),
    }
}

/// Returns the first of the least or greatest items; texts are compared without case unless asked otherwise.
fn extreme(value: &Value, options: &Kwargs, wanted: Ordering) -> Result<Value, Error> {
    let case_sensitive = options.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    options.assert_all_used()?;
    let key = |item: &Value| match item.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => item.clone(),
    };
    let mut best: Option<Value> = None;
    for item in iterated(value)? {
        if best.as_ref().is_none_or(|best| key(&item).cmp(&key(best)) == wanted) {
            best = Some(item);
        }
    }
    Ok(best.unwrap_or_default())
}

fn listed(items: Value) -> Result<Value, Error> {
    Ok(list(items.try_iter()?.collect()))
}

fn generated(items: Value) -> Result<Value, Error> {
    Ok(generator(items.try_iter()?.collect()))
}

/// Returns the entries of a mapping as tuples.
pub(super) fn pairs(mapping: &Value) -> Result<Vec<Value>, Error> {
    Ok(entries(mapping)?.into_iter().map(|(key, value)| tuple(vec![key, value])).collect())
}

fn trim(value: &Value, chars: Option<&str>) -> String {
    python::strip(&text(value), chars, true, true).to_owned()
}

fn escape(value: &Value) -> String {
    let mut out = String::new();
    for c in text(value).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn replace(value: &Value, old: &Value, new: &Value, count: Option<i64>) -> String {
    let (value, old, new) = (text(value), text(old), text(new));
    match count.map(usize::try_from) {
        Some(Ok(count)) => value.replacen(&old, &new, count),
        _ => value.replace(&old, &new),
    }
}

fn indent(value: &Value, width: Option<Value>, first: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let option = |given: Option<Value>, name: &str| match given {
        Some(given) => Ok(Some(given)),
        None => options.get::<Option<Value>>(name),
    };
    let indentation = match option(width, "width")? {
        None => " ".repeat(4),
        Some(width) if width.as_str().is_some() => text(&width),
        Some(width) => " ".repeat(width.as_usize().ok_or_else(|| invalid("indent takes a number or a text"))?),
    };
    let first = option(first, "first")?.is_some_and(|first| first.is_true());
    let blank = options.get::<Option<bool>>("blank")?.unwrap_or(false);
    options.assert_all_used()?;
    // Jinja2 adds the line break that `splitlines` drops at the end.
    let value = text(value) + "\n";
    let lines = python::lines(&value, false);
    let is_indented = |i: usize, line: &str| i > 0 && (blank || !line.is_empty());
    let lines = lines
        .iter()
        .enumerate()
        .map(|(i, line)| if is_indented(i, line) { format!("{indentation}{line}") } else { (*line).to_owned() });
    let text = lines.collect::<Vec<_>>().join("\n");
    Ok(if first { indentation + &text } else { text })
}

fn join(value: &Value, separator: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => Some(separator),
        None => options.get("d")?,
    };
    let attribute = options.get::<Option<Value>>("attribute")?;
    options.assert_all_used()?;
    if matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number) {
        return Err(invalid("join takes a list"));
    }
    let mut texts = Vec::new();
    for item in value.try_iter()? {
        let item = match &attribute {
            Some(attribute) if attribute.as_str().is_some() => at_path(&item, &text(attribute))?,
            Some(attribute) => item.get_item(attribute)?,
            None => item,
        };
        if let Some(problem) = values::unprintable(&item) {
            return Err(invalid(problem));
        }
        texts.push(text(&item));
    }
    Ok(texts.join(&separator.map_or_else(String::new, |separator| text(&separator))))
}

/// Returns the part of a value at a path such as `a.0.b`.
fn at_path(value: &Value, path: &str) -> Result<Value, Error> {
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<usize>() {
        Ok(index) => value.get_item(&Value::from(index)),
        Err(_) => value.get_item(&Value::from(part)),
    })
}

fn round(value: &Value, precision: Option<i32>, method: Option<&str>, options: Kwargs) -> Result<Value, Error> {
    let precision = precision.map_or_else(|| options.get("precision"), |given| Ok(Some(given)))?.unwrap_or(0);
    let method = method.map_or_else(|| options.get("method"), |given| Ok(Some(given)))?.unwrap_or("common");
    options.assert_all_used()?;
    if value.kind() != ValueKind::Number {
        return Err(invalid("round takes a number"));
    }
    let Ok(places) = usize::try_from(precision) else {
        return Err(invalid("round takes a precision of at least 0"));
    };
    let number = f64::try_from(value.clone())?;
    let scale = 10f64.powi(precision);
    match method {
        "common" if value.is_integer() => Ok(value.clone()),
        "common" => Ok(Value::from(python::round(number, places))),
        "ceil" => Ok(Value::from((number * scale).ceil() / scale)),
        "floor" => Ok(Value::from((number * scale).floor() / scale)),
        _ => Err(invalid("the method of round is common, ceil or floor")),
    }
}

/// Returns the number in a text, in Python's syntax.
fn number(text: &str) -> Option<f64> {
    let text = python::strip(text, None, true, true);
    let plain = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let starts_well =
        plain.starts_with(|c: char| c.is_ascii_digit() || c == '.') || matches!(&*plain, "inf" | "infinity" | "nan");
    if starts_well { text.parse().ok() } else { None }
}

fn int(value: &Value, default: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let default = default.map_or_else(|| options.get("default"), |given| Ok(Some(given)))?.unwrap_or(Value::from(0));
    // With another base than 10 this fails.
    options.assert_all_used()?;
    let whole = |number: f64| {
        let whole = number.trunc();
        (whole.abs() < 9e15).then(|| Value::from(whole as i64))
    };
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => {
            whole(f64::try_from(value.clone())?).ok_or_else(|| invalid("int takes a finite number"))?
        }
        ValueKind::String => {
            let text = text(value);
            let trimmed = python::strip(&text, None, true, true);
            match (trimmed.parse::<i64>(), number(&text)) {
                (Ok(integer), _) => Value::from(integer),
                _ if trimmed.contains('_') => return Err(invalid("int does not take underscores")),
                (_, Some(number)) if number.is_finite() => {
                    whole(number).ok_or_else(|| invalid("int takes a smaller number"))?
                }
                _ => default,
            }
        }
        _ => default,
    })
}

fn float(value: &Value, default: Option<Value>) -> Result<Value, Error> {
    let default = default.unwrap_or(Value::from(0.0));
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => Value::from(f64::try_from(value.clone())?),
        ValueKind::String => number(&text(value)).map_or(default, Value::from),
        _ => default,
    })
}

fn reverse(value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => Ok(Value::from(text(value).chars().rev().collect::<String>())),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Undefined => {
            let mut items: Vec<Value> = value.try_iter()?.collect();
            items.reverse();
            Ok(generator(items))
        }
        _ => Err(invalid("reverse takes a list or a text")),
    }
}
