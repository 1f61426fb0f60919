//! Values that are a word or something else, and numbers, which the config crate would convert silently.

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// `data.missing_rating`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MissingRating {
    /// The response is left out of that dimension.
    Mask,
    /// This rating replaces it (1.0 in the paper).
    Value(f64),
}

impl MissingRating {
    /// Returns the rating that replaces a missing one; None masks it.
    pub fn value(self) -> Option<f64> {
        match self {
            Self::Mask => None,
            Self::Value(value) => Some(value),
        }
    }
}

impl std::str::FromStr for MissingRating {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "mask" => Ok(Self::Mask),
            Ok(value) if value.is_finite() => Ok(Self::Value(value)),
            _ => Err(format!("must be \"mask\" or a number, not \"{text}\"")),
        }
    }
}

impl Serialize for MissingRating {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Mask => serializer.serialize_str("mask"),
            Self::Value(value) => serializer.serialize_f64(*value),
        }
    }
}

impl<'de> Deserialize<'de> for MissingRating {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = MissingRating;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"mask\" or a number")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<MissingRating, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<MissingRating, E> {
                if value.is_finite() {
                    Ok(MissingRating::Value(value))
                } else {
                    Err(E::custom(format!("must be \"mask\" or a number, not {value}")))
                }
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<MissingRating, E> {
                Ok(MissingRating::Value(value as f64))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// `adapter.target_modules`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer of the decoder except the LM head.
    AllLinear,
    /// The linear layers whose name ends in one of these.
    Names(Vec<String>),
}

impl Serialize for TargetModules {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AllLinear => serializer.serialize_str("all-linear"),
            Self::Names(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TargetModules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = TargetModules;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"all-linear\" or a list of names")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TargetModules, E> {
                match text {
                    "all-linear" => Ok(TargetModules::AllLinear),
                    _ => Err(E::custom(format!("must be \"all-linear\" or a list of names, not \"{text}\""))),
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<TargetModules, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(TargetModules::Names(names))
            }
        }
        deserializer.deserialize_any(V)
    }
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a non-negative integer")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::custom(format!("must be a non-negative integer, not {value}")))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        Err(E::custom(format!("must be a non-negative integer, not {value:?}")))
    }
}

/// Deserialises a non-negative integer; fractions, which the config crate would round, are rejected.
pub(super) fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Whole)
}

/// As [`whole`], for a key that may be left out.
pub(super) fn optional_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    deserializer.deserialize_any(Whole).map(Some)
}

struct Number;

impl Visitor<'_> for Number {
    type Value = f64;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<f64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<f64, E> {
        Ok(value as f64)
    }
}

/// Deserialises a number; words that the config crate would read as one (`yes`) are rejected.
pub(super) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserializer.deserialize_any(Number)
}

/// As [`number`], for a key that may be left out.
pub(super) fn optional_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    deserializer.deserialize_any(Number).map(Some)
}
