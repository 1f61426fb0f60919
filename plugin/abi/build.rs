//! Compiles the DLPack conversion of the feature `tch` against the libtorch that torch-sys found, and records its
//! version.

fn main() {
    println!("cargo:rerun-if-changed=src/tensor.cpp");
    println!("cargo:rerun-if-changed=src/guarded.h");
    println!("cargo:rerun-if-changed=src/versioned.h");
    #[cfg(feature = "tch")]
    libtorch::build();
}

#[cfg(feature = "tch")]
mod libtorch {
    use std::path::{Path, PathBuf};

    pub fn build() {
        println!("cargo:rerun-if-env-changed=LIBTORCH");
        let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
            fail("torch-sys did not say where libtorch is; set LIBTORCH (make setup does)");
        };
        let root = lib.parent().unwrap_or(&lib);
        let Some(version) = torch_version(root) else {
            fail(&format!("{} holds neither version.py nor build-version; run make setup", root.display()));
        };
        println!("cargo:rustc-env=LAMBDA_DPO_TORCH_VERSION={version}");
        let include = root.join("include");
        let (include, api) = (include.display(), include.join("torch/csrc/api/include"));
        let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("src");
        let flags = [
            "-std=c++17".into(),
            "-D_GLIBCXX_USE_CXX11_ABI=1".into(),
            format!("-isystem{include}"),
            format!("-isystem{}", api.display()),
            format!("-I{}", own.display()),
        ];
        // For dependent crates that compile C++, too.
        println!("cargo:cxxflags={}", flags.join("\u{1f}"));
        let mut build = cc::Build::new();
        for flag in &flags {
            build.flag(flag);
        }
        build.cpp(true).file("src/tensor.cpp").compile("lambda_dpo_dlpack");
    }

    /// `2.11.0` from a wheel's version.py (`__version__ = '2.11.0+cu130'`) or a libtorch archive's build-version.
    fn torch_version(root: &Path) -> Option<String> {
        let text = std::fs::read_to_string(root.join("version.py"))
            .or_else(|_| std::fs::read_to_string(root.join("build-version")))
            .ok()?;
        let is_version = |line: &&str| line.starts_with("__version__") || line.starts_with(|c: char| c.is_numeric());
        let value = text.lines().find(is_version)?.rsplit('=').next()?;
        let value = value.trim().trim_matches(['\'', '"']);
        Some(value.split('+').next()?.to_owned())
    }

    fn fail(problem: &str) -> ! {
        println!("cargo:warning={problem}");
        std::process::exit(1);
    }
}
