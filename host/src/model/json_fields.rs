//! Fields of a JSON object, with errors that name the file and the field.

use std::path::Path;

use serde_json::{Map, Value};

use super::ModelError;

/// The largest size: products of two are still integers, and none of a model comes near.
const MAX_SIZE: i64 = i32::MAX as i64;

/// A JSON object and the path of its file.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, map }
    }

    pub(super) fn error(&self, message: String) -> ModelError {
        ModelError::Json { path: self.path.to_path_buf(), message }
    }

    pub(super) fn unsupported(&self, feature: String, way_out: String) -> ModelError {
        ModelError::Unsupported { path: self.path.to_path_buf(), feature, way_out }
    }

    fn expected(&self, name: &str, what: &str) -> ModelError {
        match self.map.get(name) {
            Some(found) => self.error(format!("`{name}` must be {what}, found {found}")),
            None => self.error(format!("it has no `{name}` ({what})")),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns a field, which may be null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name)
    }

    /// Returns a field if it is present and not null.
    pub(super) fn get_some(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Returns a required integer above 0, and no larger than a dimension of a tensor can be.
    pub(super) fn size(&self, name: &str) -> Result<i64, ModelError> {
        self.size_up_to(name, MAX_SIZE)
    }

    /// Returns a required integer above 0 and at most `max`.
    pub(super) fn size_up_to(&self, name: &str, max: i64) -> Result<i64, ModelError> {
        match self.get(name).and_then(Value::as_i64) {
            Some(value) if value > max => Err(self.expected(name, &format!("at most {max}"))),
            Some(value) if value > 0 => Ok(value),
            _ => Err(self.expected(name, "a positive integer")),
        }
    }

    /// Returns a required number.
    pub(super) fn number(&self, name: &str) -> Result<f64, ModelError> {
        self.get(name).and_then(Value::as_f64).ok_or_else(|| self.expected(name, "a number"))
    }

    /// Returns a number, or `default` if it is absent or null.
    pub(super) fn number_or(&self, name: &str, default: f64) -> Result<f64, ModelError> {
        self.get_some(name).map_or(Ok(default), |_| self.number(name))
    }

    /// Returns an integer, or `default` if it is absent or null.
    pub(super) fn integer_or(&self, name: &str, default: i64) -> Result<i64, ModelError> {
        let Some(value) = self.get_some(name) else { return Ok(default) };
        value.as_i64().ok_or_else(|| self.expected(name, "an integer"))
    }

    /// Returns an integer, `default` if it is absent, `None` if it is null.
    pub(super) fn nullable_integer_or(&self, name: &str, default: i64) -> Result<Option<i64>, ModelError> {
        match self.get(name) {
            Some(Value::Null) => Ok(None),
            _ => self.integer_or(name, default).map(Some),
        }
    }

    /// Returns a boolean, or `default` if it is absent or null.
    pub(super) fn flag_or(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.get_some(name) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.expected(name, "true or false"))
    }

    /// Returns the integers of a field that is one integer or a list; none if it is absent or null.
    pub(super) fn integers(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        let values = match self.get_some(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(values)) => values.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        let integers = values.iter().map(Value::as_i64).collect::<Option<Vec<_>>>();
        integers.ok_or_else(|| self.expected(name, "an integer or a list of integers"))
    }

    /// Returns a nested object; `None` if it is absent or null.
    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.get_some(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { path: self.path, map })),
            Some(_) => Err(self.expected(name, "an object")),
        }
    }
}
