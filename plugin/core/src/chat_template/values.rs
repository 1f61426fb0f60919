//! Values with Python's types where minijinja has fewer: lists and tuples, dictionaries and their views, generators.
//!
//! They print as in Python, also inside each other, and they are what a template gets for the conversation, for the
//! literals in it, and from filters.

use std::cmp::Ordering;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// A list or a tuple.
#[derive(Debug)]
struct Sequence {
    items: Vec<Value>,
    is_tuple: bool,
}

impl Object for Sequence {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }

    /// A tuple equals no list.
    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Sequence>()?;
        Some(self.is_tuple.cmp(&other.is_tuple)).filter(|ordering| ordering.is_ne())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = if self.is_tuple { ("(", ")") } else { ("[", "]") };
        f.write_str(brackets.0)?;
        for (i, item) in self.items.iter().enumerate() {
            f.write_str(if i > 0 { ", " } else { "" })?;
            f.write_str(&repr(item))?;
        }
        f.write_str(if self.is_tuple && self.items.len() == 1 { "," } else { "" })?;
        f.write_str(brackets.1)
    }
}

/// Creates a list.
pub(super) fn list(items: Vec<Value>) -> Value {
    Value::from_object(Sequence { items, is_tuple: false })
}

/// Makes a list of a slice of one; a slice of a text stays.
pub(super) fn sliced(slice: Value) -> Result<Value, Error> {
    match slice.kind() {
        ValueKind::Iterable if !is_own(&slice) => Ok(list(slice.try_iter()?.collect())),
        _ => Ok(slice),
    }
}

/// Creates a tuple.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Sequence { items, is_tuple: true })
}

/// Names of a dictionary's methods, which an attribute finds before a key of that name.
const DICT_METHODS: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// A dictionary.
#[derive(Debug)]
struct Dict(IndexMap<Value, Value>);

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key).cloned()
    }

    /// Looks up an attribute: a method, or else a key.
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        if DICT_METHODS.contains(&key) { Some(Value::from_object(Method)) } else { self.get_value(&Value::from(key)) }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().cloned().collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        for (i, (key, value)) in self.0.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}: {}", repr(key), repr(value))?;
        }
        f.write_char('}')
    }
}

/// Creates a dictionary.
pub(super) fn dict(entries: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::from_object(Dict(entries.into_iter().collect()))
}

/// Returns the entries of a mapping.
pub(super) fn entries(mapping: &Value) -> Result<Vec<(Value, Value)>, Error> {
    mapping.try_iter()?.map(|key| Ok((key.clone(), mapping.get_item(&key)?))).collect()
}

/// A method of a dictionary that is not called. It is true, and has neither text nor parts.
#[derive(Debug)]
struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// What the methods `keys`, `values` and `items` of a dictionary return.
#[derive(Debug)]
struct View {
    name: &'static str,
    items: Vec<Value>,
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = self.items.iter().map(repr).collect::<Vec<_>>().join(", ");
        write!(f, "{}([{items}])", self.name)
    }
}

/// Creates a view of a dictionary; `name` is Python's name of its type.
pub(super) fn view(name: &'static str, items: Vec<Value>) -> Value {
    Value::from_object(View { name, items })
}

/// A generator: its items can be taken once.
#[derive(Debug)]
struct Generator(Arc<Mutex<std::vec::IntoIter<Value>>>);

/// Takes the items that a generator has left.
struct Remaining(Arc<Mutex<std::vec::IntoIter<Value>>>);

impl Iterator for Remaining {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Remaining(self.0.clone())))
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// Creates a generator.
pub(super) fn generator(items: Vec<Value>) -> Value {
    Value::from_object(Generator(Arc::new(Mutex::new(items.into_iter()))))
}

/// A range.
#[derive(Debug)]
struct Range {
    start: i64,
    stop: i64,
    step: i64,
}

impl Range {
    fn len(&self) -> usize {
        let span = if self.step > 0 { self.stop - self.start } else { self.start - self.stop };
        span.max(0).unsigned_abs().div_ceil(self.step.unsigned_abs()) as usize
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|&index| index < self.len())?;
        Some(Value::from(self.start + self.step * index as i64))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = if self.step == 1 { String::new() } else { format!(", {}", self.step) };
        write!(f, "range({}, {}{step})", self.start, self.stop)
    }
}

/// Most numbers in a range, as in Jinja2's sandbox.
const MAX_RANGE: usize = 100_000;

/// `range(stop)`, `range(start, stop)` or `range(start, stop, step)`.
pub(super) fn range(first: i32, second: Option<i32>, step: Option<i32>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let range = Range { start: start.into(), stop: stop.into(), step: step.unwrap_or(1).into() };
    if range.step == 0 || range.len() > MAX_RANGE {
        let problem = if range.step == 0 {
            "the step of a range is 0".into()
        } else {
            format!("a range is longer than {MAX_RANGE}")
        };
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(Value::from_object(range))
}

/// Returns what `str` of a value is in Python.
pub(super) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        ValueKind::Undefined => String::new(),
        _ => repr(value),
    }
}

/// Returns what `repr` of a value is in Python.
pub(super) fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::String => python::quoted(value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).map_or_else(|_| value.to_string(), python::float)
        }
        // Slices and sums of lists are lists of minijinja.
        ValueKind::Seq | ValueKind::Iterable if !is_own(value) => {
            let items = value.try_iter().into_iter().flatten().map(|item| repr(&item)).collect::<Vec<_>>();
            format!("[{}]", items.join(", "))
        }
        _ => value.to_string(),
    }
}

fn is_own(value: &Value) -> bool {
    is::<Sequence>(value) || is::<View>(value) || is::<Generator>(value) || is::<Range>(value)
}

fn is<T: 'static>(value: &Value) -> bool {
    value.downcast_object_ref::<T>().is_some()
}

/// Returns why a value cannot be printed: in Python, its text has an address.
pub(super) fn unprintable(value: &Value) -> Option<&'static str> {
    if is::<Generator>(value) {
        return Some("it prints a generator, not its items: add the filter `list` or `join`");
    }
    is::<Method>(value).then_some("it prints a method of a dictionary: call it, or take the key with [\"…\"]")
}

/// Creates a value from JSON.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Array(items) => list(items.iter().map(from_json).collect()),
        serde_json::Value::Object(map) => {
            dict(map.iter().map(|(key, value)| (Value::from(key.as_str()), from_json(value))))
        }
        other => Value::from_serialize(other),
    }
}
