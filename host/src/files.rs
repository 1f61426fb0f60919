//! Files: atomic writes, tensors, formats that other programs read, the cache folder, and the Hugging Face hub.
//!
//! | module | contents |
//! |---|---|
//! | [`lock`] | locks that name the process which holds them |
//! | [`atomic`] | files and folders that appear whole or not at all |
//! | [`report_folder`] | a folder of files that a new report replaces |
//! | [`interim`] | what a long command has finished, kept until its output is there |
//! | [`tensor_bytes`] | a tensor's values as bytes |
//! | [`regular`] | files that must be regular ones |
//! | [`git_lfs`] | Git LFS pointers in the place of files |
//! | [`beside`] | files that another file names |
//! | [`safetensors`] | safetensors files |
//! | [`onnx_proto`] | ONNX files |
//! | [`cache_folder`] | the folder that keeps results between runs |
//! | [`paths`] | `~` and patterns |
//! | [`hub`] | models and datasets by their names on the hub |
//! | [`record_files`] | the files that records are read from |

pub mod lock;
pub mod atomic;
pub mod report_folder;
pub mod tensor_bytes;
pub mod regular;
pub mod interim;
pub mod git_lfs;
pub mod beside;
pub mod safetensors;
pub mod onnx_proto;
pub mod cache_folder;
pub mod paths;
pub mod hub;
pub mod record_files;
