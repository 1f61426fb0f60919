//! Stage 2: [`Record`](crate::Record) → [`Sample`].
//!
//! | module | what |
//! |---|---|
//! | `options` | how records are converted |
//! | `sample` | a sample as JSON |
//! | `report` | counts of what was read, left out and found missing |
//! | `converter` | one record → one sample |
//! | `dimensions` | the names of the dimensions that files use |
//! | `arrow` | records from, and samples to, streams of Arrow record batches |
//! | `reader` | stages 1 and 2 as one stream |

mod options;
mod sample;
mod report;
mod converter;
mod dimensions;
mod arrow;
mod reader;
#[cfg(test)]
mod tests;

pub use arrow::SampleBatches;
pub use converter::{Converter, PREFERENCE, convert_record};
pub use options::{ConvertOptions, MissingRating};
pub use reader::SampleReader;
pub use report::{MAX_IGNORED_NAMES, MissingRatings, Report, Skipped};
pub use sample::Sample;
pub(crate) use sample::{Rows, to_rows, to_targets};
