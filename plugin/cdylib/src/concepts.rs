//! The ABI's codes → the enums of `lambda-dpo-concepts`.

use lambda_dpo_abi as abi;
use lambda_dpo_concepts::{Coded, Format, Layout, Objective, Reduction};

use crate::failure::{Failure, Outcome};

/// Asserts that the codes of all variants are the constants of the header.
macro_rules! same_codes {
    ($($concept:ident { $($variant:ident = $constant:ident),+ $(,)? })+) => {$(
        const _: () = {
            const fn constant(variant: $concept) -> u32 {
                match variant { $($concept::$variant => abi::$constant),+ }
            }
            $(assert!(constant($concept::$variant) == $concept::$variant.code());)+
        };
    )+};
}

same_codes! {
    Format {
        UltraFeedback = FORMAT_ULTRAFEEDBACK, Pairs = FORMAT_PAIRS, Chat = FORMAT_CHAT, Rankings = FORMAT_RANKINGS
    }
    Layout { Expanded = LAYOUT_EXPANDED, Rows = LAYOUT_ROWS, Packed = LAYOUT_PACKED }
    Objective {
        Listwise = OBJECTIVE_LISTWISE,
        Sft = OBJECTIVE_SFT,
        PlackettLuce = OBJECTIVE_PLACKETT_LUCE,
        Sigmoid = OBJECTIVE_SIGMOID,
        Hinge = OBJECTIVE_HINGE,
        Ipo = OBJECTIVE_IPO,
        Simpo = OBJECTIVE_SIMPO,
        Orpo = OBJECTIVE_ORPO,
    }
    Reduction { Sum = REDUCTION_SUM, Mean = REDUCTION_MEAN }
}

/// Converts the code that C passed as `name`.
pub fn concept<C: Coded>(code: u32, name: &str) -> Outcome<C> {
    C::from_code(code).ok_or_else(|| {
        let (last, rest) = (C::NUM_CODES - 1, 0..C::NUM_CODES - 1);
        let rest = rest.map(|code| code.to_string()).collect::<Vec<_>>().join(", ");
        Failure::argument(format!("`{name}` is {code}, expected {rest} or {last}"))
    })
}
