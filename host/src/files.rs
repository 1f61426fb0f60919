//! Files: written whole or not at all, tensors in them, formats that others read, and where they come from.
//!
//! | module | what |
//! |---|---|
//! | [`atomic`] | files and folders that appear whole or not at all |
//! | [`tensor_bytes`] | a tensor's values as bytes |
//! | [`safetensors`] | safetensors files |
//! | [`onnx_proto`] | ONNX files |
//! | [`cache_folder`] | where results are kept between runs |
//! | [`hub`] | models and datasets by name |

pub mod atomic;
pub mod tensor_bytes;
pub mod safetensors;
pub mod onnx_proto;
pub mod cache_folder;
pub mod hub;
