//! Stage 1: record files → [`Record`]s.
//!
//! | module | what |
//! |---|---|
//! | `types` | a [`Record`] and its parts |
//! | `place` | where a record is, for error messages |
//! | `fields` | the fields of a record, by name: what is read, what is refused |
//! | `source` | a file, decompressed, or named as what it is if it holds no records |
//! | `parquet_lengths` | whether a Parquet file can hold what it promises |
//! | `columns` | the rows of tables (Parquet, Arrow) as JSON text |
//! | `rows` | a file's rows as JSON text, one at a time: JSON lines, a JSON array, Parquet |
//! | `json` | JSON text → values, with Python's NaN |
//! | `messages` | the shapes in which conversations come |
//! | `prompt` | the prompt, the system prompt and the tools |
//! | `answers` | answers that are compared, and the prompt before them |
//! | `rated` | prompts with rated responses |
//! | `ranked` | prompts with ranked responses |
//! | `parse` | one row's JSON → a [`Record`], by [`Format`](crate::Format) |
//! | `reader` | the rows of several files |
//! | `ahead` | rows read ahead on a thread, in chunks |
//! | `schema` | the JSON of a record, as a JSON Schema |
//!
//! Every error names the file, the line or record, and the field; nothing is skipped silently: what has no
//! effect is listed in the record, and the report counts it.

mod types;
mod place;
mod fields;
mod source;
mod parquet_lengths;
mod columns;
mod rows;
mod json;
mod messages;
mod prompt;
mod answers;
mod rated;
mod ranked;
mod parse;
mod reader;
mod ahead;
mod schema;
#[cfg(test)]
mod tests;

pub use place::Place;
pub use types::{Body, Completion, Message, Prompt, Rating, Record};

pub(crate) use ahead::RowChunks;
pub(crate) use columns::{Columns, holds_json, to_json as rows_to_json};
pub(crate) use reader::{Row, check_files};
pub(crate) use types::{CALLS, REASONING, is_set};
