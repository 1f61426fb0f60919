//! Files: atomic writes, tensors, formats that other programs read, the cache folder, and the Hugging Face hub.
//!
//! | module | contents |
//! |---|---|
//! | [`atomic`] | files and folders that appear whole or not at all |
//! | [`tensor_bytes`] | a tensor's values as bytes |
//! | [`safetensors`] | safetensors files |
//! | [`onnx_proto`] | ONNX files |
//! | [`cache_folder`] | the folder that keeps results between runs |
//! | [`paths`] | `~` and patterns |
//! | [`hub`] | models and datasets by their names on the hub |

pub mod atomic;
pub mod tensor_bytes;
pub mod safetensors;
pub mod onnx_proto;
pub mod cache_folder;
pub mod paths;
pub mod hub;
