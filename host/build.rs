//! Compiles what the program needs of libtorch beyond tch, against the libtorch that torch-sys found.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/libtorch/script.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!("cargo:warning=torch-sys did not say where libtorch is; set LIBTORCH (make setup does)");
        std::process::exit(1);
    };
    let include = lib.parent().unwrap_or(&lib).join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .flag("-isystem")
        .flag(include.as_os_str())
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include").as_os_str())
        .file("src/libtorch/script.cpp")
        .compile("lambda_dpo_native");
}
