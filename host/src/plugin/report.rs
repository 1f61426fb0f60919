//! What became of the records that were read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Missing ratings of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRatings {
    /// How many.
    pub count: u64,
    /// Index of the first record that has one.
    pub first_record: u64,
}

/// What was read and what was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records read.
    pub num_records: u64,
    /// Samples made of them.
    pub num_samples: u64,
    /// Records left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Missing ratings, by kind.
    pub missing_ratings: BTreeMap<String, MissingRatings>,
    /// Samples cut at `cutoff_len`.
    pub num_truncated: u64,
    /// Responses dropped because no token was left of them.
    pub num_dropped_responses: u64,
}

impl Report {
    /// What became of the records, in words.
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
        lines
    }
}

fn counted(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
