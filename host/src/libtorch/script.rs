//! Makes TorchScript modules from parameters and source text. `script.cpp` is the C++ side.

use std::ffi::{CString, c_char, c_void};
use std::io::{self, Write};

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
        write: extern "C" fn(*mut c_void, *const c_void, usize),
        sink: *mut c_void,
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
    /// Compiles the methods and writes the module to `out`.
    ///
    /// # Errors
    ///
    /// Returns the message of libtorch if the source does not compile, and errors from writing.
    pub(crate) fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut sink = Sink { out, written: Ok(()) };
        self.compile(&mut sink).map_err(io::Error::other)?;
        sink.written
    }

    fn compile(&self, sink: &mut Sink) -> Result<(), String> {
        let names = texts(self.tensors.iter().map(|(name, ..)| name.as_str()))?;
        let tensors: Vec<*const C_tensor> = self.tensors.iter().map(|(_, tensor, _)| tensor.as_ptr()).collect();
        let is_buffer: Vec<bool> = self.tensors.iter().map(|(.., is_buffer)| *is_buffer).collect();
        let paths = texts(self.sources.iter().map(|(path, _)| path.as_str()))?;
        let sources = texts(self.sources.iter().map(|(_, source)| source.as_str()))?;
        let (name_pointers, path_pointers, source_pointers) = (pointers(&names), pointers(&paths), pointers(&sources));
        // SAFETY: the lists have the given lengths, and they and what they point to live through the call, as the sink
        // does, which `write` alone uses.
        let message = unsafe {
            ldpo_script_save(
                name_pointers.as_ptr(),
                tensors.as_ptr(),
                is_buffer.as_ptr(),
                tensors.len(),
                path_pointers.as_ptr(),
                source_pointers.as_ptr(),
                source_pointers.len(),
                write,
                std::ptr::from_mut(sink).cast(),
            )
        };
        check(message).map_err(|error| error.to_string())
    }
}

/// Where a module goes, and the first error from writing it.
struct Sink<'w> {
    out: &'w mut dyn Write,
    written: io::Result<()>,
}

/// Writes some bytes of a module, unless writing has failed before.
extern "C" fn write(sink: *mut c_void, bytes: *const c_void, size: usize) {
    // SAFETY: `compile` passes its sink, of which there is no other reference during its call.
    let sink = unsafe { &mut *sink.cast::<Sink>() };
    if sink.written.is_ok() && size > 0 {
        // SAFETY: libtorch passes `size` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), size) };
        sink.written = sink.out.write_all(bytes);
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
