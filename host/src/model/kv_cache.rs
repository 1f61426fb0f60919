//! Keys and values of rows in decoding, each of its own length.
//!
//! Rows live in blocks: a block has slots for a few rows of up to its capacity in tokens, for every layer. A row begins in
//! a block that is just large enough, and moves to one of twice the capacity when it is full, so that rows of one block
//! have similar lengths and each token is copied a bounded number of times. A row that ends frees its slot; only the
//! block's last row is copied into it, so that the rows of a block stay together.
//!
//! | module | contents |
//! |---|---|
//! | `row_key` | names of rows |
//! | `block` | slots of one capacity |
//! | `cache` | rows and the blocks that hold them |
//! | `extension` | one pass over rows: where their new tokens go and what they see |

mod row_key;
mod block;
mod cache;
mod extension;

pub use cache::KvCache;
pub(super) use extension::{CachedPass, Extension};
pub use row_key::RowKey;
