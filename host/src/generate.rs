//! Generation: prompts in, text out.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | length, temperature, top-p, seed, end tokens |
//! | `sampler` | the next token of each row |
//! | [`decoder`] | tokens after a prompt, many prompts at once |
//! | [`stream`] | tokens as text, as they come |

pub mod options;
mod sampler;
pub mod decoder;
pub mod stream;

pub use decoder::{generate, generate_all};
pub use options::GenerateOptions;
