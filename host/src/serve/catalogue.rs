//! Names of models: `N` with λ in the field `lambda`, or `N@helpfulness=0.7,honesty=0.1`, or `N@helpfulness`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::lambda;
use crate::policy::batch_inputs::uniform_lambda;

use super::error::ApiError;

/// The one model that is served, under the names it has.
pub(super) struct Catalogue {
    name: String,
    /// Dimensions of its λ-adapter; empty if it has none.
    dimensions: Vec<String>,
}

impl Catalogue {
    /// Creates the catalogue of a model.
    pub(super) fn new(name: String, dimensions: Vec<String>) -> Result<Self> {
        ensure!(!name.contains('@'), "the model's name must not contain @, which separates it from λ, but is `{name}`");
        Ok(Self { name, dimensions })
    }

    /// Returns the model's own name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns λ, `[M]`, of a request for `model` with the field `lambda`; None if there is no λ-adapter.
    ///
    /// # Errors
    ///
    /// Returns 404 for another model, and 400 for a λ that is not valid, or that comes twice or without a λ-adapter.
    pub(super) fn lambda(&self, model: &str, field: Option<&Value>) -> Result<Option<Vec<f64>>, ApiError> {
        let in_name = match model.strip_prefix(&self.name) {
            Some("") => None,
            Some(rest) if rest.starts_with('@') => Some(&rest[1..]),
            _ => return Err(self.unknown(model)),
        };
        if self.dimensions.is_empty() && (in_name.is_some() || field.is_some()) {
            let param = if field.is_some() { "lambda" } else { "model" };
            let message = format!("`{}` has no λ-adapter, so a request cannot choose λ: leave it out", self.name);
            return Err(ApiError::field(param, message));
        }
        match (in_name, field) {
            (Some(_), Some(_)) => {
                let message = "λ is in the model's name and in `lambda`: give it in one of them";
                Err(ApiError::field("lambda", message))
            }
            (Some(text), None) => {
                self.of_name(text).map(Some).map_err(|error| ApiError::field("model", error.to_string()))
            }
            (None, Some(field)) => self.of_field(field).map(Some),
            (None, None) => Ok((!self.dimensions.is_empty()).then(|| uniform_lambda(self.dimensions.len()))),
        }
    }

    fn of_name(&self, text: &str) -> Result<Vec<f64>> {
        ensure!(!text.trim().is_empty(), "there is no λ after the @ of the model's name");
        let is_name = !text.contains(['=', ',']) || self.dimensions.iter().any(|dimension| dimension == text);
        match is_name {
            true => lambda::from_weights([(text, 1.0)], &self.dimensions),
            false => lambda::parse(text, &self.dimensions),
        }
    }

    fn of_field(&self, field: &Value) -> Result<Vec<f64>, ApiError> {
        let wrong = |message: String| ApiError::field("lambda", message);
        let Value::Object(weights) = field else {
            return Err(wrong(format!(
                "`lambda` must be an object of names and weights, such as {{\"{}\": 1}}",
                self.dimensions[0]
            )));
        };
        let mut numbers = Vec::new();
        for (name, weight) in weights {
            let weight = weight.as_f64().ok_or_else(|| {
                wrong(format!("λ gives `{name}` the weight {weight}: weights must be numbers of at least 0"))
            })?;
            numbers.push((name.as_str(), weight));
        }
        lambda::from_weights(numbers, &self.dimensions).map_err(|error| wrong(error.to_string()))
    }

    fn unknown(&self, model: &str) -> ApiError {
        let with_lambda = match self.dimensions.first() {
            Some(first) => format!(", also with λ, as in `{}@{first}=1`", self.name),
            None => String::new(),
        };
        ApiError::no_model(format!("there is no model `{model}` here; there is `{}`{with_lambda}", self.name))
    }

    /// Returns λ by name.
    pub(super) fn by_name(&self, weights: &[f64]) -> Value {
        let weights = self.dimensions.iter().zip(weights).map(|(name, &weight)| (name.clone(), json!(weight)));
        Value::Object(weights.collect())
    }

    /// Returns the list of models: the model at uniform λ, and at λ_k = 1 for each dimension.
    pub(super) fn list(&self, created: u64, max_model_len: usize, has_chat_template: bool) -> Value {
        let model = |id: String, weights: Option<Vec<f64>>| {
            let mut model = json!({ "id": id, "object": "model", "created": created, "owned_by": "lambda-dpo" });
            if let Some(weights) = weights {
                model["lambda"] = self.by_name(&weights);
            }
            model["dimensions"] = json!(self.dimensions);
            model["max_model_len"] = json!(max_model_len);
            model["has_chat_template"] = json!(has_chat_template);
            model
        };
        let num_dimensions = self.dimensions.len();
        let uniform = (num_dimensions > 0).then(|| uniform_lambda(num_dimensions));
        let alone = self.dimensions.iter().enumerate().map(|(index, dimension)| {
            let mut weights = vec![0.0; num_dimensions];
            weights[index] = 1.0;
            model(format!("{}@{dimension}", self.name), Some(weights))
        });
        let models: Vec<Value> = std::iter::once(model(self.name.clone(), uniform)).chain(alone).collect();
        json!({ "object": "list", "data": models })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn catalogue(dimensions: &[&str]) -> Catalogue {
        Catalogue::new("m".into(), dimensions.iter().map(|name| (*name).to_owned()).collect()).unwrap()
    }

    fn message(error: ApiError) -> String {
        error.to_json()["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn lambda_is_in_the_field_or_in_the_name() {
        let two = catalogue(&["a", "b"]);
        let of = |model: &str, field: Option<Value>| two.lambda(model, field.as_ref()).unwrap().unwrap();
        assert_eq!(of("m", None), [0.5, 0.5]);
        assert_eq!(of("m", Some(json!({}))), [0.5, 0.5]);
        assert_eq!(of("m", Some(json!({ "a": 0.75 }))), [0.75, 0.25]);
        assert_eq!(of("m", Some(json!({ "b": 1 }))), [0.0, 1.0]);
        assert_eq!(of("m@a=0.75", None), [0.75, 0.25]);
        assert_eq!(of("m@b", None), [0.0, 1.0]);
        assert_eq!(of("m@a=0.75,b=0.25", None), [0.75, 0.25]);
        assert_eq!(catalogue(&["a=0,x", "b"]).lambda("m@a=0,x", None).unwrap().unwrap(), [1.0, 0.0]);
    }

    #[test]
    fn a_lambda_that_is_not_valid_is_refused() {
        let two = catalogue(&["a", "b"]);
        let refused = |model: &str, field: Option<Value>| message(two.lambda(model, field.as_ref()).unwrap_err());
        let unknown = "λ names the dimension `c`, but the adapter has a, b";
        assert_eq!(refused("m@c", None), unknown);
        assert_eq!(refused("m@c=1", None), unknown);
        assert_eq!(refused("m", Some(json!({ "c": 1 }))), unknown);
        assert_eq!(
            refused("m", Some(json!({ "a": 0.7, "b": 0.5 }))),
            "the weights of λ sum to 1.2: they must sum to 1 within 0.001"
        );
        assert_eq!(
            refused("m", Some(json!({ "a": "1" }))),
            "λ gives `a` the weight \"1\": weights must be numbers of at least 0"
        );
        assert_eq!(
            refused("m", Some(json!([1, 0]))),
            "`lambda` must be an object of names and weights, such as {\"a\": 1}"
        );
        assert_eq!(refused("m@", None), "there is no λ after the @ of the model's name");
        assert_eq!(
            refused("m@a", Some(json!({ "a": 1 }))),
            "λ is in the model's name and in `lambda`: give it in one of them"
        );
        assert_eq!(refused("mm", None), "there is no model `mm` here; there is `m`, also with λ, as in `m@a=1`");
        let none = catalogue(&[]);
        assert_eq!(none.lambda("m", None).unwrap(), None);
        for (model, field) in [("m@a", None), ("m", Some(json!({ "a": 1 })))] {
            let refused = message(none.lambda(model, field.as_ref()).unwrap_err());
            assert_eq!(refused, "`m` has no λ-adapter, so a request cannot choose λ: leave it out");
        }
    }
}
