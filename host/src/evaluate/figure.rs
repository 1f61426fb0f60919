//! What a figure is: its unit, whether higher is better, and how to read it.

use schemars::JsonSchema;
use serde::Serialize;

/// What a figure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// The policy on held-out records.
    Records,
    /// The ratings of each dimension.
    Dimensions,
    /// How far the policy is from its reference.
    Divergence,
    /// Log-probs and lengths.
    Length,
    /// The policy's own answers.
    Answers,
    /// Public benchmarks.
    Benchmarks,
    /// The log of the training.
    Training,
    /// Time and memory of the training.
    Cost,
}

impl Section {
    /// All sections, in the order of tables and pages.
    pub const ALL: [Self; 8] = [
        Self::Records,
        Self::Dimensions,
        Self::Divergence,
        Self::Length,
        Self::Answers,
        Self::Benchmarks,
        Self::Training,
        Self::Cost,
    ];

    /// Its heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Training => "Training",
            Self::Records => "Held-out records",
            Self::Dimensions => "Each dimension on held-out records",
            Self::Divergence => "Distance from the reference",
            Self::Length => "Log-probability and length",
            Self::Answers => "Generated answers",
            Self::Cost => "Cost of the training",
            Self::Benchmarks => "Benchmarks",
        }
    }
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nothing: scores, ratings, correlations.
    None,
    /// Natural units of information.
    Nats,
    /// A share from 0 to 1, shown in per cent.
    Share,
    /// Characters of text.
    Characters,
    /// A whole number.
    Count,
    /// Seconds.
    Seconds,
    /// Tokens per second.
    TokensPerSecond,
    /// Bytes, shown in MiB.
    Bytes,
}

impl Unit {
    /// Its symbol where values are shown; empty without one.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::None | Self::Count => "",
            Self::Nats => "nats",
            Self::Share => "%",
            Self::Characters => "characters",
            Self::Seconds => "s",
            Self::TokensPerSecond => "tokens/s",
            Self::Bytes => "MiB",
        }
    }

    /// Returns a value as it is shown: a share in per cent, bytes in MiB.
    #[must_use]
    pub fn scaled(self, value: f64) -> f64 {
        match self {
            Self::Share => 100.0 * value,
            Self::Bytes => value / f64::from(1 << 20),
            _ => value,
        }
    }

    /// Writes a value without the symbol.
    #[must_use]
    pub fn number(self, value: f64) -> String {
        let scaled = self.scaled(value);
        match self {
            Self::None | Self::Nats if scaled != 0.0 && scaled.abs() < 5e-4 => format!("{scaled:.1e}"),
            Self::None | Self::Nats => format!("{scaled:.3}"),
            Self::Share | Self::Seconds => format!("{scaled:.1}"),
            Self::Characters | Self::Count | Self::TokensPerSecond | Self::Bytes => format!("{scaled:.0}"),
        }
    }

    /// Writes a value with the symbol.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        format!("{} {}", self.number(value), self.symbol()).trim_end().to_owned()
    }
}

/// Which values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Higher ones.
    Higher,
    /// Lower ones.
    Lower,
}

/// A figure that was measured of a policy or a run.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Figure {
    /// Its path in `evaluation.json`, such as `win_rate/rate`; `train/<metric>` of `metrics.jsonl`;
    /// or `benchmarks/<task>`.
    pub key: String,
    /// What it is about.
    pub section: Section,
    /// Its name in tables and plots.
    pub title: String,
    /// What it is counted in.
    pub unit: Unit,
    /// Which values are better; None if neither are.
    pub better: Option<Better>,
    /// How to read it, in a sentence.
    pub meaning: String,
}

impl Figure {
    /// Its name, with the unit in which its values are shown.
    #[must_use]
    pub fn title_with_unit(&self) -> String {
        match self.unit.symbol() {
            "" => self.title.clone(),
            symbol => format!("{} ({symbol})", self.title),
        }
    }

    /// Says which values are better.
    #[must_use]
    pub fn direction(&self) -> &'static str {
        match self.better {
            Some(Better::Higher) => "Higher is better.",
            Some(Better::Lower) => "Lower is better.",
            None => "Neither high nor low is better by itself.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_in_the_order_of_their_list() {
        assert!(Section::ALL.is_sorted());
    }

    #[test]
    fn values_are_shown_in_their_unit() {
        let cases = [
            (Unit::None, 0.12345, "0.123"),
            (Unit::None, 0.0, "0.000"),
            (Unit::Nats, -0.000_123, "-1.2e-4 nats"),
            (Unit::Share, 0.5625, "56.2 %"),
            (Unit::Characters, 128.4, "128 characters"),
            (Unit::Bytes, 536_870_912.0, "512 MiB"),
            (Unit::Seconds, 12.34, "12.3 s"),
            (Unit::Count, 190.0, "190"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.show(value), text);
        }
    }
}
