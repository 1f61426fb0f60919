//! Finding and loading the library, and the plumbing of every call.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::{Exported, TORCH_VERSION, export, import};
use libloading::Library;
use serde::de::DeserializeOwned;
use tch::Tensor;

use super::PluginError;

const LIBRARY: &str = "liblambda_dpo.so";
const MESSAGE_BYTES: usize = 4096;

/// The loaded plugin; clones share it.
#[derive(Clone, Debug)]
pub struct Plugin {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    api: &'static abi::Api,
}

impl Plugin {
    /// Loads the library at `path`, else at `LAMBDA_DPO_PLUGIN`, else beside the executable, else in `../lib` of it.
    ///
    /// The library stays loaded for the life of the process: tensors that it gave may outlive every other handle.
    ///
    /// # Errors
    /// No library there; one that does not load, is of another ABI or of another torch version.
    pub fn load(path: Option<&Path>) -> Result<Self, PluginError> {
        let path = find(path)?;
        let failed = |source| PluginError::Load { path: path.clone(), source };
        // SAFETY: loading runs the library's initialisers, which are libstdc++'s and Rust's own; the user names the file.
        let library = unsafe { Library::new(&path) }.map_err(failed)?;
        // SAFETY: the symbol has this type in every version of the ABI.
        let get_api = unsafe { *library.get::<abi::GetApi>(abi::ENTRY_POINT.as_bytes()).map_err(failed)? };
        std::mem::forget(library);
        let mut api: *const abi::Api = std::ptr::null();
        // SAFETY: both pointers are valid for the call.
        call(|error| unsafe { get_api(abi::ABI_MAJOR, abi::ABI_MINOR, &mut api, error) })?;
        // SAFETY: on success the table is valid and static, and the library stays loaded.
        let api = unsafe { api.as_ref() }.ok_or_else(|| answer("get_api", "no table"))?;
        let plugin = Self { inner: Arc::new(Inner { api }) };
        let torch = plugin.torch_version()?;
        if torch != TORCH_VERSION {
            return Err(PluginError::TorchVersion { path, plugin: torch, host: TORCH_VERSION });
        }
        Ok(plugin)
    }

    fn torch_version(&self) -> Result<String, PluginError> {
        let empty = abi::Str { data: std::ptr::null(), len: 0 };
        let mut info =
            abi::BuildInfo { struct_size: size_of::<abi::BuildInfo>(), version: empty, torch_version: empty };
        // SAFETY: `info` is valid for the call; its strings live as long as the library.
        unsafe {
            call(|error| (self.api().build_info)(&mut info, error))?;
            let bytes = std::slice::from_raw_parts(info.torch_version.data, info.torch_version.len);
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }

    pub(super) fn api(&self) -> &'static abi::Api {
        self.inner.api
    }
}

fn find(path: Option<&Path>) -> Result<PathBuf, PluginError> {
    let named = path.map(Path::to_path_buf).or_else(|| std::env::var_os("LAMBDA_DPO_PLUGIN").map(PathBuf::from));
    let places = match named {
        Some(named) => vec![named],
        None => {
            let folder =
                std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf())).unwrap_or_default();
            vec![folder.join(LIBRARY), folder.join("../lib").join(LIBRARY)]
        }
    };
    places.iter().find(|place| place.is_file()).cloned().ok_or(PluginError::NotFound { places })
}

/// Makes a call with somewhere for its sentence, and turns a failing status into an error.
pub(super) fn call(body: impl FnOnce(*mut abi::Error) -> abi::Status) -> Result<(), PluginError> {
    let mut buffer = [0_u8; MESSAGE_BYTES];
    let mut error = abi::Error {
        struct_size: size_of::<abi::Error>(),
        buffer: buffer.as_mut_ptr(),
        capacity: buffer.len(),
        len: 0,
    };
    let status = body(&mut error);
    if status == abi::STATUS_OK {
        return Ok(());
    }
    let written = error.len.min(buffer.len());
    let mut message = String::from_utf8_lossy(&buffer[..written]).trim_end_matches('\u{fffd}').to_owned();
    if error.len > buffer.len() {
        message.push('…');
    }
    Err(PluginError::Call { status, message })
}

/// An answer that breaks the contract.
pub(super) fn answer(call: &'static str, problem: impl ToString) -> PluginError {
    PluginError::Answer { call, problem: problem.to_string() }
}

/// Lends text for a call.
pub(super) fn lend_str(text: &str) -> abi::Str {
    abi::Str { data: text.as_ptr(), len: text.len() }
}

/// Lends paths for a call; the strings must outlive it.
pub(super) fn path_strings(paths: &[PathBuf]) -> Result<Vec<String>, PluginError> {
    paths
        .iter()
        .map(|path| {
            path.to_str().map(str::to_owned).ok_or_else(|| PluginError::Call {
                status: abi::STATUS_INVALID_ARGUMENT,
                message: format!("{}: the path is not valid UTF-8; rename it", path.display()),
            })
        })
        .collect()
}

/// Lends a list of texts for a call.
pub(super) fn lend_strs(texts: &[String]) -> Vec<abi::Str> {
    texts.iter().map(|text| lend_str(text)).collect()
}

/// Takes the text that a call gave; None for NULL.
pub(super) fn take_text(plugin: &Plugin, mut bytes: abi::Bytes) -> Option<String> {
    if bytes.data.is_null() {
        return None;
    }
    // SAFETY: the plugin gave `len` readable bytes, which are copied and then freed once.
    unsafe {
        let text = String::from_utf8_lossy(std::slice::from_raw_parts(bytes.data, bytes.len)).into_owned();
        (plugin.api().bytes_free)(&mut bytes);
        Some(text)
    }
}

/// Bytes for a call to fill.
pub(super) fn no_bytes() -> abi::Bytes {
    abi::Bytes { data: std::ptr::null_mut(), len: 0, capacity: 0 }
}

/// Lends a tensor for a call: the result must outlive it.
pub(super) fn lend(tensor: &Tensor) -> Result<Exported, PluginError> {
    export(tensor).map_err(|problem| PluginError::Call { status: abi::STATUS_TORCH, message: problem })
}

/// Takes over a tensor that a call gave.
pub(super) fn take(raw: abi::Tensor, call: &'static str) -> Result<Tensor, PluginError> {
    // SAFETY: outputs of a successful call are owned by the caller.
    unsafe { import(raw) }.map_err(|problem| answer(call, problem))
}

/// As [`take`], NULL being None.
pub(super) fn take_option(raw: abi::Tensor, call: &'static str) -> Result<Option<Tensor>, PluginError> {
    if raw.is_null() { Ok(None) } else { take(raw, call).map(Some) }
}

/// Reads the JSON that a call gave.
pub(super) fn parse<T: DeserializeOwned>(
    plugin: &Plugin,
    bytes: abi::Bytes,
    call: &'static str,
) -> Result<T, PluginError> {
    let text = take_text(plugin, bytes).ok_or_else(|| answer(call, "nothing"))?;
    serde_json::from_str(&text).map_err(|error| answer(call, error))
}

/// Declares a handle that is freed when dropped.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $free:ident $(, $field:ident: $type:ty)*) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            plugin: Plugin,
            handle: NonNull<$raw>,
            $($field: $type,)*
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the handle is alive and not used again.
                unsafe { (self.plugin.api().$free)(self.handle.as_ptr()) }
            }
        }
    };
}
pub(super) use handle;
