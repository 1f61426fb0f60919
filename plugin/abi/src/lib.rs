//! What crosses the plugin boundary, and nothing else: `repr(C)` structs, constants and the function table.
//!
//! `plugin/include/lambda_dpo.h` is generated from this crate, doc comments included, so they are written for a reader
//! of the header.
//!
//! # Invariants
//!
//! - `no_std` and free of dependencies, apart from the `tch` feature, which holds the one conversion between DLPack and
//!   [`tch::Tensor`] that both sides of the boundary need.
//! - Never a Rust `enum` or `bool` in a type that C fills: kinds are `u32` constants, flags are `u32`.
//! - Structs only ever grow at their end, and say how much the caller knows in `struct_size`; a new field's zero means
//!   what the field's absence meant.
#![no_std]

mod arrow;
mod dlpack;
mod options;
mod table;
#[cfg(feature = "tch")]
pub mod tensor;
mod values;

pub use arrow::*;
pub use dlpack::*;
pub use options::*;
pub use table::*;
pub use values::*;
