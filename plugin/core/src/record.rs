//! Stage 1: record files → [`Record`]s.
//!
//! | module | what |
//! |---|---|
//! | `types` | a [`Record`] and its parts |
//! | `place` | where a record is, for error messages |
//! | `rows` | a file's rows as JSON text, one at a time: JSON lines, a JSON array, Parquet |
//! | `messages` | the shapes in which conversations come |
//! | `parse` | one row's JSON → a [`Record`], by [`Format`](crate::Format) |
//! | `reader` | the rows of several files |
//! | `ahead` | rows read on a thread of their own, in chunks |
//! | `schema` | the JSON of a record, as a JSON Schema |
//!
//! Every error names the file, the line or record, and the field; nothing is skipped silently.

mod types;
mod place;
mod rows;
mod messages;
mod parse;
mod reader;
mod ahead;
mod schema;
#[cfg(test)]
mod tests;

pub use place::Place;
pub use types::{Body, Completion, Message, Prompt, Rating, Record};

pub(crate) use ahead::RowChunks;
pub(crate) use reader::{Row, check_files};
pub(crate) use rows::to_json as rows_to_json;
