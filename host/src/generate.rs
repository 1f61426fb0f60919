//! Text generation.
//!
//! | module | contents |
//! |---|---|
//! | [`options`] | length, temperature, top-p, seed, end tokens |
//! | [`request`] | a text to generate, and what happens to it |
//! | `sampler` | chooses the next token |
//! | `log_probs` | log-probs of single tokens |
//! | [`engine`] | generates texts together, each of which may join and end at any time |
//! | [`decoder`] | generates texts whose prompts are all known from the start |
//! | [`text`] | text of tokens that come one by one |
//! | [`stream`] | writes text to stdout while it is generated |

pub mod options;
pub mod request;
mod sampler;
mod log_probs;
pub mod engine;
pub mod decoder;
pub mod text;
pub mod stream;

pub use decoder::{Generated, generate, generate_all, generate_streams};
pub use options::GenerateOptions;
