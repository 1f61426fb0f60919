//! Everything that crosses the plugin boundary: `repr(C)` structs, constants and the function table.
//!
//! `plugin/include/lambda_dpo.h` is generated from this crate with its doc comments, which are therefore written for
//! readers of the header.
//!
//! # Invariants
//!
//! - `no_std` and free of dependencies, except for the feature `tch`: the conversion between DLPack and [`tch::Tensor`],
//!   which both sides of the boundary need.
//! - Never a Rust `enum` or `bool` in a type that C fills: kinds are `u32` constants, flags are `u32`.
//! - Structs grow only at their end, and `struct_size` says how much of one the caller knows; a new field's zero means
//!   the behaviour from before it was added.
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
