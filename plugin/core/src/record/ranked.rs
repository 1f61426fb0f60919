//! A prompt with ranked responses (`Format::Rankings`). Ranks become ratings one point apart.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::answers::{Answer, check_context, parse_answer, parse_prompt_of_answers};
use super::json::{is_nan, literal};
use super::messages::{Fill, unexpected};
use super::prompt::{Extras, Parsed, Row};
use super::rated::parse_number;
use super::types::{Body, Completion, Prompt, Rating};

/// Descriptions of the fields, for error messages.
const RESPONSES: &str = "a list with a text or a message for each answer";
const RANKINGS: &str = "an object with a list of ranks for each dimension (empty if nothing is ranked)";
const RANKS: &str = "a list with a rank (1 is best) or null for each response";

/// Parses the prompt, its responses and their extras; fields of theirs without an effect are added to `ignored`.
pub(super) fn parse_ranked(row: &Row, fill: Fill, ignored: &mut BTreeSet<String>) -> Parsed<(Prompt, Body, Extras)> {
    let answers = parse_answers(row, fill)?;
    let rankings = parse_rankings(row, answers.len())?;
    let context = answers.first().map(|answer| answer.context.clone()).unwrap_or_default();
    let prompt = parse_prompt_of_answers(row, context, fill, ignored)?;
    let (mut completions, mut extras) = (Vec::new(), Vec::new());
    for (i, answer) in answers.into_iter().enumerate() {
        let ratings = rankings.iter().map(|(dimension, ratings)| ((*dimension).clone(), ratings[i].clone()));
        completions.push(Completion { response: answer.text, ratings: ratings.collect() });
        extras.push(answer.extras);
    }
    Ok((prompt, Body::Rated(completions), extras))
}

fn parse_answers(row: &Row, fill: Fill) -> Parsed<Vec<Answer>> {
    let responses = match row.get("responses") {
        Some(Value::Array(responses)) if responses.is_empty() => {
            return Err(format!("`responses` is empty: expected {RESPONSES}"));
        }
        Some(Value::Array(responses)) => responses,
        other => return Err(unexpected("responses", other, RESPONSES)),
    };
    let mut answers = Vec::with_capacity(responses.len());
    for (i, response) in responses.iter().enumerate() {
        let field = format!("responses[{i}]");
        let answer = parse_answer(Some(response), &field, fill)?;
        if let Some(first) = answers.first() {
            check_context(("responses[0]", first), (&field, &answer))?;
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// Returns the ratings of the responses in each dimension.
fn parse_rankings(row: &Row, num_responses: usize) -> Parsed<IndexMap<&String, Vec<Rating>>> {
    let rankings: &Map<String, Value> = match row.get("rankings") {
        Some(value @ Value::Object(rankings)) if literal(value).is_none() => rankings,
        other => return Err(unexpected("rankings", other, RANKINGS)),
    };
    let ratings = |(dimension, ranks)| {
        let field = format!("rankings.{dimension}");
        Ok((dimension, parse_ranks(ranks, &field, num_responses)?))
    };
    rankings.iter().map(ratings).collect()
}

/// Returns the ratings of the responses in one dimension: P + 1 − rank with P places.
fn parse_ranks(value: &Value, field: &str, num_responses: usize) -> Parsed<Vec<Rating>> {
    let ranks = match value {
        Value::Array(ranks) => ranks,
        // A table has these where a row does not have the dimension.
        Value::Null => return Ok(vec![Rating::Missing("null"); num_responses]),
        value if is_nan(value) => return Ok(vec![Rating::Missing("nan"); num_responses]),
        other => return Err(unexpected(field, Some(other), RANKS)),
    };
    if ranks.len() != num_responses {
        return Err(format!(
            "`{field}` has {} ranks for {num_responses} responses: write null for a response without a rank",
            ranks.len()
        ));
    }
    let ranks = ranks.iter().enumerate().map(|(i, rank)| parse_rank(rank, &format!("{field}[{i}]")));
    let mut ranks: Vec<Rating> = ranks.collect::<Parsed<_>>()?;
    let num_places = count_places(&ranks, field)?;
    for rating in &mut ranks {
        if let Rating::Value(rank) = rating {
            *rank = num_places + 1.0 - *rank;
        }
    }
    Ok(ranks)
}

/// Parses a rank, a whole number from 1 on; what is a missing rating is a missing rank.
fn parse_rank(value: &Value, field: &str) -> Parsed<Rating> {
    let invalid = |written: &str| {
        format!("`{field}` is {written}: a rank is a whole number from 1 (the best) on, and a missing one null")
    };
    match parse_number(value, invalid)? {
        Rating::Value(rank) if rank < 1.0 || rank.fract() != 0.0 => Err(invalid(&rank.to_string())),
        rank => Ok(rank),
    }
}

/// Returns P, the number of places. Fails if a place is left out.
fn count_places(ranks: &[Rating], field: &str) -> Parsed<f64> {
    let value = |rank: &Rating| if let Rating::Value(rank) = rank { Some(*rank) } else { None };
    let mut places: Vec<f64> = ranks.iter().filter_map(value).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let mut place = 0.0;
    for rank in places {
        place += 1.0;
        if rank > place {
            return Err(format!(
                "`{field}` has rank {rank} but no rank {place}: number the places without gaps; equal ranks tie, and the next \
                 one is one more (1, 2, 2, 3)"
            ));
        }
    }
    Ok(place)
}
