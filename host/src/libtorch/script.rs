//! Makes TorchScript modules from parameters and source text. `script.cpp` is the C++ side.

use std::ffi::{CString, c_char};
use std::path::Path;

use tch::Tensor;
use torch_sys::C_tensor;

use super::native::check;

unsafe extern "C" {
    fn ldpo_script_save(
        names: *const *const c_char,
        tensors: *const *const C_tensor,
        is_buffer: *const bool,
        num_tensors: usize,
        paths: *const *const c_char,
        sources: *const *const c_char,
        num_sources: usize,
        file: *const c_char,
    ) -> *mut c_char;
}

/// Name of the module's file in an exported folder.
pub const SCRIPT_FILE: &str = "model.pt";

/// A TorchScript module to be compiled.
#[derive(Debug, Default)]
pub(crate) struct Script<'t> {
    /// Parameters and buffers by dotted name; true for buffers.
    pub(crate) tensors: Vec<(String, &'t Tensor, bool)>,
    /// Methods by the dotted path of their module: callees before their callers, the root's ("") last.
    pub(crate) sources: Vec<(String, String)>,
}

impl Script<'_> {
    /// Compiles the methods and writes the module to `file`.
    ///
    /// # Errors
    ///
    /// Returns the message of libtorch if the source does not compile or the file cannot be written.
    pub(crate) fn save(&self, file: &Path) -> Result<(), String> {
        let names = texts(self.tensors.iter().map(|(name, ..)| name.as_str()))?;
        let tensors: Vec<*const C_tensor> = self.tensors.iter().map(|(_, tensor, _)| tensor.as_ptr()).collect();
        let is_buffer: Vec<bool> = self.tensors.iter().map(|(.., is_buffer)| *is_buffer).collect();
        let paths = texts(self.sources.iter().map(|(path, _)| path.as_str()))?;
        let sources = texts(self.sources.iter().map(|(_, source)| source.as_str()))?;
        let file = text(file.to_str().ok_or_else(|| format!("{} is not valid UTF-8; rename it", file.display()))?)?;
        let (name_pointers, path_pointers, source_pointers) = (pointers(&names), pointers(&paths), pointers(&sources));
        // SAFETY: the lists have the given lengths, and they and what they point to live through the call.
        let message = unsafe {
            ldpo_script_save(
                name_pointers.as_ptr(),
                tensors.as_ptr(),
                is_buffer.as_ptr(),
                tensors.len(),
                path_pointers.as_ptr(),
                source_pointers.as_ptr(),
                source_pointers.len(),
                file.as_ptr(),
            )
        };
        check(message).map_err(|error| error.to_string())
    }
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} contains a NUL character"))
}

fn texts<'a>(all: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, String> {
    all.map(text).collect()
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}
