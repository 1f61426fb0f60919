//! Compiles the C++ side of `src/libtorch`: functions of libtorch that tch leaves out.

fn main() {
    let sources = ["src/libtorch/differentiable.cpp", "src/libtorch/native.cpp", "src/libtorch/script.cpp"];
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    let Ok(flags) = std::env::var("DEP_LAMBDA_DPO_DLPACK_CXXFLAGS") else {
        println!(
            "cargo:warning=lambda-dpo-abi did not say how to compile against libtorch, because its feature `tch` is off"
        );
        std::process::exit(1);
    };
    let mut build = cc::Build::new();
    for flag in flags.split('\u{1f}') {
        build.flag(flag);
    }
    build.cpp(true).files(sources).compile("lambda_dpo_native");
}
