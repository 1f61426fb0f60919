//! Shared by the workspace tests: the built program and library, fixtures, and set-up used by several test programs.

pub mod batches;
pub mod batch_table;
pub mod table;
pub mod golden_model;
pub mod exports;
pub mod server;
pub mod trainer;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The workspace's root folder.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A file or folder under `fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    root().join("fixtures").join(path)
}

/// A file or folder of the real data that may lie beside the project; None, said to be skipped, if it is not there.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    let path = Path::new("../shared/data").join(path);
    let found = root().join(&path);
    if !found.exists() {
        skipped(&format!("{} is not there", path.display()));
        return None;
    }
    Some(found)
}

/// Says that the test that runs is skipped. The test harness shows what a test prints only if it fails, but not what it
/// writes to stderr itself.
pub fn skipped(reason: &str) {
    let thread = std::thread::current();
    // A harness that has closed stderr has nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped {}: {reason}", thread.name().unwrap_or_default());
}

/// The built program, with the plugin beside it and `cache` as its cache instead of the user's.
pub fn program(cache: &Path) -> Command {
    let mut command = Command::new(target_dir().join("lambda-dpo"));
    command.env("LAMBDA_DPO_CACHE", cache);
    command
}

/// The built library.
pub fn plugin_library() -> PathBuf {
    target_dir().join("liblambda_dpo.so")
}

/// Builds program and library, once per test process, and returns the folder that holds them.
///
/// `cargo test` does not build the library of a cdylib-only crate, so the tests do; cargo does nothing if it is fresh.
fn target_dir() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--profile", profile, "--workspace"]).current_dir(root());
        // What cargo tells a test about its package would be news to build scripts that watch it (ring's does): with all
        // that depends on them, they would be built again here, and once more by the next cargo outside of a test.
        let of_package = |name: &String| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
            build.env_remove(name);
        }
        let status = build.status();
        assert!(matches!(status, Ok(status) if status.success()), "cargo cannot build the program and the plugin");
        // A test runs from target/<profile>/deps.
        let exe = std::env::current_exe().unwrap_or_default();
        exe.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default()
    })
}
