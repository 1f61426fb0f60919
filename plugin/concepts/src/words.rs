//! Enums that people write as words. An unknown word is answered with the known ones.

pub extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// `"a"`, `"a" or "b"`, `"a", "b" or "c"`.
pub fn or_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// Declares an enum whose variants are written as words, as `Variant = "word"`, with `WORDS`, `name`, `FromStr`, `Display`
/// and, under this crate's feature `serde`, serde in both directions and a JSON Schema.
#[macro_export]
macro_rules! words {
    (
        $(#[doc = $doc:literal])+
        $name:ident { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant ),+ }

        $crate::impl_words! { $name, stringify!($name), [$($doc),+], [$( $variant = $word, [$($variant_doc),+] ),+] }
    };
}

/// Implements what [`words!`] promises for an enum that is declared already.
#[doc(hidden)]
#[macro_export]
macro_rules! impl_words {
    (
        $name:ident, $schema_name:expr, [$($doc:literal),+],
        [$( $variant:ident = $word:literal, [$($variant_doc:literal),+] ),+]
    ) => {
        impl $name {
            /// Every word that is allowed, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for this variant.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl ::core::str::FromStr for $name {
            type Err = $crate::alloc::string::String;

            fn from_str(word: &str) -> ::core::result::Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::alloc::format!("must be {}, not \"{word}\"", $crate::or_list(Self::WORDS))),
                }
            }
        }

        impl ::core::fmt::Display for $name {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.write_str(self.name())
            }
        }

        $crate::impl_serde! { $name, $schema_name, [$($doc),+], [$([$($variant_doc),+]),+] }
    };
}

/// Implements serde and the JSON Schema by word.
#[cfg(feature = "serde")]
#[doc(hidden)]
#[macro_export]
macro_rules! impl_serde {
    ($name:ident, $schema_name:expr, [$($doc:literal),+], [$([$($variant_doc:literal),+]),+]) => {
        impl $crate::serde::Serialize for $name {
            fn serialize<S: $crate::serde::Serializer>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> $crate::serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                let word = <$crate::alloc::string::String as $crate::serde::Deserialize>::deserialize(deserializer)?;
                word.parse().map_err($crate::serde::de::Error::custom)
            }
        }

        impl $crate::schemars::JsonSchema for $name {
            fn schema_name() -> $crate::alloc::borrow::Cow<'static, str> {
                $schema_name.into()
            }

            fn json_schema(_: &mut $crate::schemars::SchemaGenerator) -> $crate::schemars::Schema {
                $crate::schemars::json_schema!({
                    "description": concat!($($doc),+).trim(),
                    "type": "string",
                    "enum": Self::WORDS,
                    // Taplo shows these beside the words.
                    "x-taplo": { "docs": { "enumValues": [$(concat!($($variant_doc),+).trim()),+] } }
                })
            }
        }
    };
}

/// Without serde there is nothing to implement.
#[cfg(not(feature = "serde"))]
#[doc(hidden)]
#[macro_export]
macro_rules! impl_serde {
    ($($all:tt)*) => {};
}
