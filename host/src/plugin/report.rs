//! Counts of the records that were read and left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Missing ratings of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRatings {
    /// Number of missing ratings.
    pub count: u64,
    /// Index of the first record with one.
    pub first_record: u64,
}

/// Counts of the records that were read and left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records read.
    pub num_records: u64,
    /// Samples made from them.
    pub num_samples: u64,
    /// Records left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Missing ratings, by how they are missing.
    pub missing_ratings: BTreeMap<String, MissingRatings>,
    /// Samples truncated to `cutoff_len`.
    pub num_truncated: u64,
    /// Responses dropped because they have no token.
    pub num_dropped_responses: u64,
    /// Fields that have a value and no effect, with the number of records that have them.
    pub ignored_fields: BTreeMap<String, u64>,
}

impl Report {
    /// Describes the counts, one phrase each.
    pub fn describe(&self, cutoff_len: usize) -> Vec<String> {
        let mut lines = vec![counted(self.num_records, "record"), counted(self.num_samples, "sample")];
        for (reason, number) in self.skipped.iter().filter(|(_, number)| **number > 0) {
            lines.push(format!("{number} skipped: {}", reason.replace('_', " ")));
        }
        if self.num_truncated > 0 {
            lines.push(format!("{} truncated to {cutoff_len} tokens", self.num_truncated));
        }
        if self.num_dropped_responses > 0 {
            lines.push(format!("{} without a token dropped", counted(self.num_dropped_responses, "response")));
        }
        for (kind, missing) in &self.missing_ratings {
            let count = counted(missing.count, "rating");
            lines.push(format!("{count} missing ({kind}, first in record {})", missing.first_record));
        }
        if !self.ignored_fields.is_empty() {
            let fields: Vec<&str> = self.ignored_fields.keys().map(String::as_str).collect();
            lines.push(format!("fields without effect: {}", fields.join(", ")));
        }
        lines
    }
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
