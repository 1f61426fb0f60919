//! The choices that plugin and trainer share, each declared once: its variants, their ABI codes, and their words.
//!
//! A *code* (`FORMAT_PAIRS`) crosses the C ABI; a *word* (`"pairs"`) is written in config files and on the command
//! line. The C header needs literal constants, so the abi crate repeats the codes; the cdylib asserts at compile time
//! that the two agree.
//!
//! # Invariants
//!
//! - The walls are `concepts ← core`, `concepts ← cdylib` and `concepts ← host`. This crate depends on no other crate
//!   of the workspace, and on nothing at all without the feature `serde`.
//! - Codes count from 0 without gaps. The default of each enum is the variant of code 0, as a zeroed C struct has it.
#![no_std]

#[macro_use]
mod words;
mod objective;

#[doc(hidden)]
pub use words::alloc;
pub use words::or_list;

#[cfg(feature = "serde")]
#[doc(hidden)]
pub use {schemars, serde};

/// An enum that crosses the C ABI as a number.
pub trait Coded: Copy {
    /// The number of variants; their codes are the numbers below it.
    const NUM_CODES: u32;

    /// Returns the variant of a code; None if there is no such code.
    fn from_code(code: u32) -> Option<Self>;
}

/// Declares enums with codes and words, as `Variant = code, "word";`, in the order in which people read of the
/// variants. The name in quotes is that of the JSON Schema.
macro_rules! coded {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident, $schema_name:literal {
            $( $(#[doc = $variant_doc:literal])+ $variant:ident = $code:literal, $word:literal; )+
        }
    )+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant = $code ),+ }

        impl $name {
            /// Returns the number of this variant in the C ABI.
            pub const fn code(self) -> u32 {
                self as u32
            }

            /// Returns the variant of a code; None if there is no such code.
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl Coded for $name {
            const NUM_CODES: u32 = [$($code),+].len() as u32;

            fn from_code(code: u32) -> Option<Self> {
                Self::from_code(code)
            }
        }

        const _: () = {
            let mut code = 0;
            while code < <$name as Coded>::NUM_CODES {
                assert!($name::from_code(code).is_some(), "codes count from 0 without gaps");
                code += 1;
            }
        };

        impl Default for $name {
            /// The variant of code 0.
            fn default() -> Self {
                const ZERO: $name = match $name::from_code(0) {
                    Some(variant) => variant,
                    None => panic!("no variant has code 0"),
                };
                ZERO
            }
        }

        impl_words! { $name, $schema_name, [$($doc),+], [$( $variant = $word, [$($variant_doc),+] ),+] }
    )+};
}

coded! {
    /// The schema of the record files.
    Format, "DataFormat" {
        /// `instruction` and rated `completions`.
        UltraFeedback = 0, "ultrafeedback";
        /// `prompt`, `chosen`, `rejected`.
        Pairs = 1, "pairs";
        /// `messages`, or ShareGPT's `conversations`.
        Chat = 2, "chat";
        /// `prompt`, `responses`, and `rankings` of them by dimension.
        Rankings = 3, "rankings";
    }

    /// How a batch is laid out in rows.
    Layout, "Layout" {
        /// A prompt once, followed by its responses.
        Packed = 2, "packed";
        /// One padded row per response.
        Rows = 1, "rows";
        /// One padded row per dimension and response, as the paper.
        Expanded = 0, "expanded";
    }

    /// The loss that is minimised; equations: docs/method.md, "Objectives".
    Objective, "Objective" {
        /// λ-DPO (15): the cross-entropy with each dimension's target distribution.
        Listwise = 0, "listwise";
        /// The likelihood of each dimension's order.
        PlackettLuce = 2, "plackett_luce";
        /// DPO (6).
        Sigmoid = 3, "sigmoid";
        /// SLiC's hinge on DPO's rewards.
        Hinge = 4, "hinge";
        /// IPO: a regression of differences of log-ratios.
        Ipo = 5, "ipo";
        /// SimPO: mean log-probs with a margin, without a reference.
        Simpo = 6, "simpo";
        /// ORPO: likelihood and odds ratio, without a reference.
        Orpo = 7, "orpo";
        /// Mean negative log-likelihood of the target tokens.
        Sft = 1, "sft";
    }

    /// What s is.
    Reduction, "Reduction" {
        /// The sum of a response's token log-probs.
        Sum = 0, "sum";
        /// Their mean.
        Mean = 1, "mean";
    }
}

impl Format {
    /// Whether records of this format rate or rank their responses by dimension.
    pub const fn has_dimensions(self) -> bool {
        matches!(self, Self::UltraFeedback | Self::Rankings)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use alloc::string::ToString;

    use super::*;

    #[test]
    fn codes_and_words_read_back() {
        for code in 0..Layout::NUM_CODES {
            let layout = Layout::from_code(code).unwrap();
            assert_eq!((layout.code(), layout.name().parse()), (code, Ok(layout)));
        }
        assert_eq!((Layout::from_code(Layout::NUM_CODES), Layout::default()), (None, Layout::Expanded));
        assert_eq!((Layout::WORDS, Layout::Packed.to_string()), (&["packed", "rows", "expanded"][..], "packed".into()));
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let problem = |word: &str| word.parse::<Format>().unwrap_err();
        assert_eq!(problem("csv"), "must be \"ultrafeedback\", \"pairs\", \"chat\" or \"rankings\", not \"csv\"");
    }
}
