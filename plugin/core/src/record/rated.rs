//! A prompt with rated responses (`Format::UltraFeedback`).

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::fields::{refuse_beside, set};
use super::json::literal;
use super::messages::{Fill, extra, unexpected};
use super::prompt::{Extras, Parsed, Row, parse_prompt, present};
use super::types::{Body, CALLS, Completion, Prompt, REASONING, Rating};

/// Description of the responses, for error messages.
pub(super) const COMPLETIONS: &str = "a list of {response, annotations} objects";

/// Parses the prompt, its responses and their extras; fields of theirs without an effect are added to `ignored`.
pub(super) fn parse_rated(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<(Prompt, Body, Extras)> {
    let completions = match row.get("completions") {
        Some(Value::Array(completions)) => completions,
        other => return Err(unexpected("completions", other, COMPLETIONS)),
    };
    let (field, prompt) = match (present(row, "instruction"), present(row, "prompt")) {
        (Some(instruction), prompt) => {
            if prompt.is_some_and(|prompt| prompt != instruction) {
                ignored.insert("prompt".to_owned());
            }
            ("instruction", instruction)
        }
        (None, Some(prompt)) => ("prompt", prompt),
        (None, None) => return Err(unexpected("instruction", row.get("instruction"), "text")),
    };
    refuse_beside(row, field)?;
    let prompt = parse_prompt(prompt, field, fill)?;
    let (mut parsed, mut extras) = (Vec::new(), Vec::new());
    for (i, completion) in completions.iter().enumerate() {
        parsed.push(parse_completion(completion, i, ignored)?);
        extras.push(parts_of(completion, &format!("completions[{i}]"), fill)?);
    }
    Ok((prompt, Body::Rated(parsed), extras))
}

/// Returns the fields of a completion that are part of the answer.
fn parts_of(completion: &Value, field: &str, fill: Fill) -> Parsed<Map<String, Value>> {
    let mut parts = Map::new();
    for key in REASONING.iter().chain(CALLS) {
        let Some(value) = completion.as_object().and_then(|completion| set(completion, key)) else { continue };
        parts.insert((*key).to_owned(), extra(value, &format!("{field}.{key}"), fill)?);
    }
    Ok(parts)
}

fn parse_completion(value: &Value, index: usize, ignored: &mut BTreeSet<String>) -> Parsed<Completion> {
    let field = format!("completions[{index}]");
    let completion =
        value.as_object().ok_or_else(|| unexpected(&field, Some(value), "an object {response, annotations}"))?;
    for (key, value) in completion {
        let is_part = REASONING.contains(&key.as_str()) || CALLS.contains(&key.as_str());
        if !matches!(key.as_str(), "response" | "annotations") && !value.is_null() && !is_part {
            ignored.insert(format!("completions[].{key}"));
        }
    }
    let response = match completion.get("response") {
        Some(Value::String(response)) => response.clone(),
        other => return Err(unexpected(&format!("{field}.response"), other, "text")),
    };
    let field = format!("{field}.annotations");
    let mut ratings = IndexMap::new();
    match completion.get("annotations") {
        None | Some(Value::Null) => {}
        Some(value @ Value::Object(annotations)) if literal(value).is_none() => {
            for (dimension, annotation) in annotations {
                let rating = parse_annotation(annotation, &format!("{field}.{dimension}"), ignored)?;
                ratings.insert(dimension.clone(), rating);
            }
        }
        // The older form: `[{Type: dimension, Rating}, …]`.
        Some(Value::Array(annotations)) => {
            for (i, annotation) in annotations.iter().enumerate() {
                let field = format!("{field}[{i}]");
                let dimension = match annotation.get("Type") {
                    Some(Value::String(dimension)) => dimension.clone(),
                    other => return Err(unexpected(&format!("{field}.Type"), other, "the dimension's name")),
                };
                let rating = parse_annotation(annotation, &field, ignored)?;
                if ratings.insert(dimension.clone(), rating).is_some() {
                    return Err(format!("`{field}` rates `{dimension}` again: expected one rating for each dimension"));
                }
            }
        }
        other => return Err(unexpected(&field, other, "an object by dimension, or a list of {Type, Rating}")),
    }
    Ok(Completion { response, ratings })
}

/// Parses an object with a `Rating`, a list of such objects (the first usable one counts), or a bare rating.
fn parse_annotation(annotation: &Value, field: &str, ignored: &mut BTreeSet<String>) -> Parsed<Rating> {
    match annotation {
        Value::Object(object) if literal(annotation).is_none() => {
            for (key, value) in object {
                if !matches!(key.as_str(), "Rating" | "Type") && !value.is_null() {
                    ignored.insert(format!("completions[].annotations.*.{key}"));
                }
            }
            let rating = |rating| parse_rating(rating, &format!("{field}.Rating"));
            object.get("Rating").map_or(Ok(Rating::Missing("absent")), rating)
        }
        Value::Array(list) => {
            let ratings = list.iter().enumerate();
            let ratings: Parsed<Vec<_>> =
                ratings.map(|(i, rating)| parse_annotation(rating, &format!("{field}[{i}]"), ignored)).collect();
            let ratings = ratings?;
            let mut usable = ratings.iter().filter(|rating| matches!(rating, Rating::Value(_)));
            let first = usable.next();
            if first.is_some() && usable.next().is_some() {
                ignored.insert("completions[].annotations.*[1:]".to_owned());
            }
            Ok(first.or(ratings.first()).cloned().unwrap_or(Rating::Missing("absent")))
        }
        other => parse_rating(other, field),
    }
}

fn parse_rating(value: &Value, field: &str) -> Parsed<Rating> {
    parse_number(value, |written| {
        format!("`{field}` is {written}: a rating is a finite number, and a missing one null or NaN")
    })
}

/// Reads a number, which may be written as text; `infinite` returns the problem with one that is not finite.
pub(super) fn parse_number(value: &Value, infinite: impl Fn(&str) -> String) -> Parsed<Rating> {
    let number = |number: f64, written: &str| match number {
        _ if number.is_finite() => Ok(Rating::Value(number)),
        _ if number.is_nan() => Ok(Rating::Missing("nan")),
        _ => Err(infinite(written)),
    };
    match value {
        Value::Null => Ok(Rating::Missing("null")),
        Value::Bool(_) => Ok(Rating::Missing("boolean")),
        Value::Array(_) => Ok(Rating::Missing("list")),
        Value::Object(_) => match literal(value) {
            Some(text) => number(text.parse().unwrap_or(f64::NAN), text),
            None => Ok(Rating::Missing("object")),
        },
        Value::Number(rating) => number(rating.as_f64().unwrap_or(f64::INFINITY), &rating.to_string()),
        Value::String(text) => match text.trim() {
            "" => Ok(Rating::Missing("empty")),
            text if text.eq_ignore_ascii_case("n/a") => Ok(Rating::Missing("N/A")),
            text => match without_numpy_type(text).parse::<f64>() {
                Ok(rating) => number(rating, text),
                Err(_) => Ok(Rating::Missing("text")),
            },
        },
    }
}

/// Returns `3.5` of `np.float64(3.5)`, NumPy's way to print a number of its own.
fn without_numpy_type(text: &str) -> &str {
    let inner = || {
        let call = text.strip_prefix("np.").or_else(|| text.strip_prefix("numpy."))?;
        let (name, rest) = call.split_once('(')?;
        let digits = ["float", "int", "uint"].into_iter().find_map(|kind| name.strip_prefix(kind))?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then_some(rest.strip_suffix(')')?)
    };
    inner().unwrap_or(text)
}
