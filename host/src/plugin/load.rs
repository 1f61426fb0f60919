//! Finds and loads the library.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lambda_dpo_abi as abi;
use lambda_dpo_abi::tensor::TORCH_VERSION;
use libloading::Library;

use super::call::{answer, call, zeroed};
use super::error::PluginError;

const LIBRARY: &str = "liblambda_dpo.so";

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
    /// Loads the library at `path`, else at `LAMBDA_DPO_PLUGIN`, else beside the executable, else in its `../lib`.
    ///
    /// The library stays loaded for the life of the process, because its tensors may outlive every other handle.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no library, if it does not load, or if it is built for another version of the ABI or of
    /// torch.
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
        let api = unsafe { whole_table(api, &path) }?;
        let plugin = Self { inner: Arc::new(Inner { api }) };
        let torch = plugin.torch_version()?;
        if torch != TORCH_VERSION {
            return Err(PluginError::TorchVersion { path, plugin: torch, host: TORCH_VERSION });
        }
        Ok(plugin)
    }

    fn torch_version(&self) -> Result<String, PluginError> {
        let mut info = zeroed!(abi::BuildInfo);
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

/// Borrows the table of the library at `path`, if it has all functions that this program may call.
///
/// # Safety
/// `api` is NULL or points to a static table, which begins with its size and may end before [`abi::Api`] does.
unsafe fn whole_table(api: *const abi::Api, path: &Path) -> Result<&'static abi::Api, PluginError> {
    if api.is_null() {
        return Err(answer("get_api", "no table"));
    }
    let expected = size_of::<abi::Api>();
    // SAFETY: not NULL, and the caller promises the first field.
    let found = unsafe { (&raw const (*api).struct_size).read() };
    if found < expected {
        return Err(PluginError::Table { path: path.to_path_buf(), found, expected });
    }
    // SAFETY: not NULL, and the table is long enough.
    Ok(unsafe { &*api })
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
