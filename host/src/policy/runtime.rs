//! Finds ONNX Runtime and loads it, once per process.
//!
//! It is loaded from `--onnxruntime` or `ORT_DYLIB_PATH` if one is given. Otherwise it is searched next to libtorch
//! (where `make setup` and `make install` put it), in the active Python environment, and in the system's library path.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::LoadDynamicError;
use ort::environment::Environment;

use super::PolicyError;
use crate::libtorch;

/// Environment variable with the library's path, which the flag overrides.
const VARIABLE: &str = "ORT_DYLIB_PATH";
/// Name of the library for the system's loader.
const SYSTEM_NAME: &str = "libonnxruntime.so";

static LOADED: Mutex<Option<Environment>> = Mutex::new(None);

/// Returns the runtime, and loads it on the first call. Later calls ignore `given`.
///
/// # Errors
///
/// Returns a [`PolicyError`] if the library is not found, is not ONNX Runtime, or is too old.
pub fn load(given: Option<&Path>) -> Result<Environment, PolicyError> {
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = &*loaded {
        return Ok(environment.clone());
    }
    let (path, searched) = find(given)?;
    let builder = ort::init_from(&path).map_err(|error| explain(error, &searched))?;
    let built = builder.with_telemetry(false).build();
    let environment = built.map_err(|error| PolicyError::NotARuntime { path, reason: first_line(&error) })?;
    Ok(loaded.insert(environment).clone())
}

/// Returns the library to open, and a text for errors that says where it was searched.
fn find(given: Option<&Path>) -> Result<(PathBuf, String), PolicyError> {
    let variable = || std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = given.map(Path::to_path_buf).or_else(variable) {
        if !path.is_file() {
            return Err(PolicyError::NoRuntime { searched: format!("at {}", path.display()) });
        }
        let path = std::path::absolute(&path).map_err(|source| PolicyError::Read { path, source })?;
        return Ok((path, String::new()));
    }
    let folders = folders();
    let found = folders.iter().find_map(|folder| library_in(folder));
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Ok((found.unwrap_or_else(|| SYSTEM_NAME.into()), format!("in {} or on the system", names.join(", "))))
}

/// Returns the folders in which the Python package may have the library.
fn folders() -> Vec<PathBuf> {
    const PACKAGE: &str = "onnxruntime/capi";
    // site-packages/torch/lib, or lib/lambda-dpo/torch/lib of an installed tree.
    let beside_libtorch = libtorch::folder().and_then(|lib| Some(lib.parent()?.parent()?.join(PACKAGE)));
    let mut folders: Vec<PathBuf> = beside_libtorch.into_iter().collect();
    let environment = std::env::var_os("VIRTUAL_ENV").map(|folder| Path::new(&folder).join("lib"));
    let pythons = environment.and_then(|lib| std::fs::read_dir(lib).ok()).into_iter().flatten().flatten();
    folders.extend(pythons.map(|python| python.path().join("site-packages").join(PACKAGE)));
    folders.dedup();
    folders
}

/// Finds `libonnxruntime.so`, with or without a version at the end.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let names = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let is_library = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(SYSTEM_NAME))
    };
    names.filter(is_library).max()
}

fn explain(error: LoadDynamicError, searched: &str) -> PolicyError {
    match error {
        LoadDynamicError::Dlopen { path, .. } if path == Path::new(SYSTEM_NAME) => {
            PolicyError::NoRuntime { searched: searched.to_owned() }
        }
        LoadDynamicError::Dlopen { path, error } => {
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            PolicyError::NotARuntime { path, reason }
        }
        LoadDynamicError::MissingApi { path } => {
            PolicyError::NotARuntime { path, reason: "it has no function OrtGetApiBase".to_owned() }
        }
        LoadDynamicError::BadVersion { path, version_str } => {
            PolicyError::OldRuntime { path, found: version_str, needed: ort::MINOR_VERSION }
        }
        LoadDynamicError::InvalidVersionString => {
            PolicyError::NotARuntime { path: PathBuf::new(), reason: "its version is not valid text".to_owned() }
        }
    }
}

/// Returns the first line of an error: some continue with a stack trace.
pub(super) fn first_line(error: &impl std::fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}
