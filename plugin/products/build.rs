//! Compiles the product of 16-bit matrices on AMX.

fn main() {
    println!("cargo:rerun-if-changed=src/amx.cpp");
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
    // cc puts CXXFLAGS last, where the level that .cargo/config.toml has for torch-sys would win.
    if let Ok(flags) = std::env::var("CXXFLAGS") {
        // SAFETY: no other thread of this script reads or writes the environment.
        unsafe { std::env::set_var("CXXFLAGS", flags.replace("-Og", "")) };
    }
    build.opt_level(3).cpp(true).file("src/amx.cpp").compile("lambda_dpo_amx");
}
