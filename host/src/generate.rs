//! Text generation.
//!
//! | module | contents |
//! |---|---|
//! | [`options`] | length, temperature, top-p, seed, end tokens |
//! | `sampler` | chooses the next token |
//! | [`decoder`] | generates tokens, for several prompts at once |
//! | [`stream`] | writes text to stdout while it is generated |

pub mod options;
mod sampler;
pub mod decoder;
pub mod stream;

pub use decoder::{generate, generate_all};
pub use options::GenerateOptions;
