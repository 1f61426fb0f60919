//! Loops over values in main memory: the elementwise steps of a decoder layer, forward and backward, matrices in 4 bits,
//! and the nucleus of a distribution.
//!
//! A crate of its own because it is compiled to run fast, and the program, which has no other hot loop, to build fast.

pub mod dynamic;
mod element;
mod gate;
pub mod nf4;
mod norm;
mod nucleus;
mod rotary;
mod value;

pub use element::Bf16;
pub use nucleus::keep_nucleus;
pub use value::Value;
