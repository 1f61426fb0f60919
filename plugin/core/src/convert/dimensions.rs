//! Names of the dimensions that files use: a first pass that reads nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::options::ConvertOptions;
use crate::record::{Body, Record, Row, RowChunks};
use crate::{Format, Result};

/// Number of rows that a thread scans at a time.
const GROUP_ROWS: usize = 16;

/// Result of a first pass over the inputs.
pub(super) struct Found {
    /// Names, sorted.
    pub(super) dimensions: Vec<String>,
    pub(super) num_records: u64,
}

/// Collects the names that records use whose source is not excluded.
///
/// A row that does not parse ends the pass: the second pass will report it.
pub(super) fn find(paths: &[PathBuf], options: &ConvertOptions) -> Result<Found> {
    let mut found = BTreeSet::new();
    let mut num_records = 0;
    for rows in RowChunks::open(paths, options.max_samples)? {
        let rows = rows?;
        let groups: Vec<Group> = rows.par_chunks(GROUP_ROWS).map(|rows| Group::collect(rows, options)).collect();
        for group in groups {
            num_records += group.num_records;
            found.extend(group.names);
            if !group.is_complete {
                return Ok(Found { dimensions: found.into_iter().collect(), num_records });
            }
        }
    }
    Ok(Found { dimensions: found.into_iter().collect(), num_records })
}

/// Names in some rows, up to the first row that does not parse.
#[derive(Default)]
struct Group {
    names: BTreeSet<String>,
    num_records: u64,
    is_complete: bool,
}

impl Group {
    fn collect(rows: &[Row], options: &ConvertOptions) -> Self {
        let mut group = Self::default();
        for row in rows {
            let Some((source, names)) = names_of(&row.json, options.format) else { return group };
            group.num_records += 1;
            if source.is_none_or(|source| !options.exclude_sources.contains(&source)) {
                group.names.extend(names);
            }
        }
        group.is_complete = true;
        group
    }
}

/// Returns the source of one record and the names it uses, without keeping its texts; None if it is not a record.
fn names_of(json: &str, format: Format) -> Option<(Option<String>, Vec<String>)> {
    let projected = match format {
        Format::Rankings => {
            serde_json::from_str(json).map(|Ranked { source, metadata, rankings }| (source, metadata, rankings.0))
        }
        _ => serde_json::from_str(json).map(|Rated { source, metadata, completions }| {
            let names = completions.into_iter().flat_map(|completion| completion.annotations.0);
            (source, metadata, names.collect())
        }),
    };
    if let Ok((source, metadata, names)) = projected {
        let source: Option<Value> =
            source.or_else(|| metadata.and_then(|metadata: Value| metadata.get("source").cloned()));
        return Some((source.and_then(|source| source.as_str().map(str::to_owned)), names));
    }
    // The projection is stricter than the parser: it fails on duplicate keys.
    let record = Record::parse(json, format, 0).ok()?;
    let Body::Rated(completions) = record.body else { return None };
    Some((record.source, completions.into_iter().flat_map(|completion| completion.ratings.into_keys()).collect()))
}

/// The part of a rated record that names its dimensions.
#[derive(Deserialize)]
struct Rated {
    source: Option<Value>,
    metadata: Option<Value>,
    completions: Vec<Completion>,
}

/// The part of a ranked record that names its dimensions.
#[derive(Deserialize)]
struct Ranked {
    source: Option<Value>,
    metadata: Option<Value>,
    rankings: Names,
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    annotations: Names,
}

/// Keys of an object of annotations or rankings, or the `Type`s of the older list of annotations.
#[derive(Default)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations or rankings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Names, A::Error> {
        let mut names = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry()? {
            names.push(name);
        }
        Ok(Names(names))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Names, A::Error> {
        #[derive(Deserialize)]
        struct Typed {
            #[serde(rename = "Type")]
            name: String,
        }
        let mut names = Vec::new();
        while let Some(Typed { name }) = list.next_element()? {
            names.push(name);
        }
        Ok(Names(names))
    }

    fn visit_unit<E>(self) -> std::result::Result<Names, E> {
        Ok(Names::default())
    }
}
