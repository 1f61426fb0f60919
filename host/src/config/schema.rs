//! The JSON Schema of the run config, for editors; `schemas/config.schema.json` is a copy of it.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::{MissingRating, RunConfig, TargetModules};

/// Returns the schema of [`RunConfig`] for TOML files, in draft 7, which editors support.
pub fn schema() -> Schema {
    // First, before references get siblings, which a draft-7 reader would ignore.
    let settings = SchemaSettings::draft07().with(|settings| settings.transforms.insert(0, Box::new(for_toml)));
    settings.into_generator().into_root_schema_for::<RunConfig>()
}

/// Removes null, which TOML lacks (a key is left out instead), as a type and as a default, and the defaults of whole
/// sections, because each key has its own.
fn for_toml(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        object.retain(|key, value| key != "default" || !(value.is_null() || value.is_object()));
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        let null = serde_json::json!({ "type": "null" });
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| *choice != null);
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                object.extend(only);
            }
        }
    }
    transform_subschemas(&mut for_toml, schema);
}

impl JsonSchema for MissingRating {
    fn schema_name() -> Cow<'static, str> {
        "MissingRating".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"mask\" leaves the response out of that dimension; a number stands in (1.0 in the paper).",
            "anyOf": [{ "const": "mask" }, { "type": "number" }]
        })
    }
}

impl JsonSchema for TargetModules {
    fn schema_name() -> Cow<'static, str> {
        "TargetModules".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "\"all-linear\", or the ends of the names of the layers to adapt.",
            "anyOf": [{ "const": "all-linear" }, { "type": "array", "minItems": 1, "items": { "type": "string" } }]
        })
    }
}
