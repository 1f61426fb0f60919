//! Names of rows.

/// Identifies a row in its cache; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey(pub(super) u64);
