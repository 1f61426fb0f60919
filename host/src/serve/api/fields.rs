//! Fields of a JSON object, with their types checked.

use serde_json::{Map, Value};

use crate::serve::error::ApiError;

/// The fields of a request. Those that are null count as absent, as clients send what they leave open.
#[derive(Clone, Copy)]
pub(super) struct Fields<'v>(&'v Map<String, Value>);

impl<'v> Fields<'v> {
    /// Takes the fields of a request's body.
    ///
    /// # Errors
    ///
    /// Returns 400 if it is not an object.
    pub(super) fn of(body: &'v Value) -> Result<Self, ApiError> {
        match body {
            Value::Object(fields) => Ok(Self(fields)),
            other => Err(ApiError::malformed(format!("the body must be a JSON object, not {}", shown(other)))),
        }
    }

    /// Returns a field.
    pub(super) fn get(self, name: &str) -> Option<&'v Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Returns a field of true or false.
    pub(super) fn flag(self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, Value::as_bool, "true or false")
    }

    /// Returns a field of text.
    pub(super) fn text(self, name: &str) -> Result<Option<&'v str>, ApiError> {
        self.typed(name, Value::as_str, "a string")
    }

    /// Returns a number for which `is_valid` holds; `expected` says which those are.
    pub(super) fn number(
        self,
        name: &str,
        expected: &str,
        is_valid: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ApiError> {
        self.typed(name, |value| value.as_f64().filter(|&number| number.is_finite() && is_valid(number)), expected)
    }

    /// Returns a whole number from `least` to `most`.
    pub(super) fn size(self, name: &str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let size = |value: &Value| {
            let size = usize::try_from(value.as_u64()?).ok()?;
            (least..=most).contains(&size).then_some(size)
        };
        let expected = match most {
            usize::MAX => format!("a whole number of at least {least}"),
            _ => format!("a whole number from {least} to {most}"),
        };
        self.typed(name, size, &expected)
    }

    /// Returns a field as another type; `expected` says what it must be.
    pub(super) fn typed<T>(
        self,
        name: &str,
        read: impl Fn(&'v Value) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wrong = || ApiError::field(name, format!("`{name}` must be {expected}, not {}", shown(value)));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// Refuses fields of OpenAI's API that would change the answer and are not implemented, unless their value is one of
    /// those at which they change nothing.
    pub(super) fn refuse(self, unsupported: &[(&str, &[&str])]) -> Result<(), ApiError> {
        for (name, neutral) in unsupported {
            let Some(value) = self.get(name) else { continue };
            let equals = |text: &str| {
                let neutral: Result<Value, _> = serde_json::from_str(text);
                neutral.is_ok_and(|neutral| {
                    neutral == *value || neutral.as_f64().is_some_and(|n| value.as_f64() == Some(n))
                })
            };
            let is_neutral = neutral.iter().any(|text| equals(text));
            if !is_neutral {
                let message = format!("`{name}` is not supported here: leave it out");
                return Err(ApiError::unsupported(name, message));
            }
        }
        Ok(())
    }
}

/// Shows a value in a message, shortened.
pub(super) fn shown(value: &Value) -> String {
    const MOST_CHARS: usize = 40;
    let text = value.to_string();
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_other_types_are_refused_by_name() {
        let body = json!({ "a": "1", "b": null, "c": 1.5, "d": -1, "e": 7, "f": "x".repeat(100) });
        let fields = Fields::of(&body).unwrap();
        let message = |error: ApiError| error.to_json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(message(fields.flag("a").unwrap_err()), "`a` must be true or false, not \"1\"");
        assert_eq!(fields.flag("b").unwrap(), None);
        assert_eq!(fields.flag("missing").unwrap(), None);
        assert_eq!(message(fields.size("c", 1, 9).unwrap_err()), "`c` must be a whole number from 1 to 9, not 1.5");
        assert_eq!(
            message(fields.size("d", 0, usize::MAX).unwrap_err()),
            "`d` must be a whole number of at least 0, not -1"
        );
        assert_eq!(fields.size("e", 1, 7).unwrap(), Some(7));
        assert!(fields.size("e", 1, 6).is_err());
        let long = message(fields.number("f", "a number", |_| true).unwrap_err());
        assert_eq!(long, format!("`f` must be a number, not \"{}…", "x".repeat(39)));
        assert!(message(Fields::of(&json!([1])).err().unwrap()).starts_with("the body must be a JSON object, not [1]"));
    }

    #[test]
    fn unsupported_fields_may_have_values_that_change_nothing() {
        let refuse = |body: Value| {
            Fields::of(&body).unwrap().refuse(&[("penalty", &["0"]), ("format", &["{\"type\":\"text\"}"])])
        };
        for neutral in [json!({}), json!({ "penalty": 0 }), json!({ "penalty": 0.0 }), json!({ "penalty": null })] {
            assert!(refuse(neutral).is_ok());
        }
        assert!(refuse(json!({ "format": { "type": "text" } })).is_ok());
        assert!(refuse(json!({ "penalty": 0.1 })).is_err());
        assert!(refuse(json!({ "format": { "type": "json_object" } })).is_err());
    }
}
