//! The committed header matches the ABI crate, compiles as C11 and C++17, by itself and after DLPack's and Arrow's own
//! headers, and lays out its structs as Rust does.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use lambda_dpo_tests::{plugin_library, root};
use serde_json::Value;

/// Compiles `source`, without linking, with every warning an error.
fn compile(compiler_variable: &str, default_compiler: &str, standard: &str, language: &str, source: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("use_header");
    std::fs::write(&file, source).unwrap();
    let compiler = std::env::var(compiler_variable).unwrap_or_else(|_| default_compiler.to_owned());
    let output = Command::new(&compiler)
        .args([standard, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", language])
        .arg("-I")
        .arg(root().join("plugin/include"))
        .arg("-isystem")
        .arg(root().join(".libtorch/include"))
        .arg(&file)
        .output()
        .unwrap_or_else(|error| panic!("could not start {compiler}: {error}"));
    assert!(output.status.success(), "{compiler} {standard}:\n{}", String::from_utf8_lossy(&output.stderr));
}

fn compile_as_c_and_cpp(source: &str) {
    compile("CC", "cc", "-std=c11", "c", source);
    compile("CXX", "c++", "-std=c++17", "c++", source);
}

/// C code that calls the entry point through its function pointer type, and then a function of the table.
const USE: &str = "
#include <lambda_dpo.h>
int use(void);
int use(void) {
    LambdaDpoGetApi get_api = lambda_dpo_get_api;
    const LambdaDpoApi *api = NULL;
    LambdaDpoError error = {sizeof(LambdaDpoError), NULL, 0, 0};
    LambdaDpoTensor tensor = NULL;
    LambdaDpoReader *reader = NULL;
    if (get_api(LAMBDA_DPO_ABI_MAJOR, LAMBDA_DPO_ABI_MINOR, &api, &error) != LAMBDA_DPO_STATUS_OK) return 1;
    api->reader_free(reader);
    return tensor != NULL && tensor->dl_tensor.device.device_id != 0;
}
";

#[test]
fn the_committed_files_match_the_abi_crate() {
    for task in ["header", "layout"] {
        let output =
            Command::new(plugin_library().with_file_name("lambda-dpo-ci")).args([task, "--check"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn compiles_by_itself() {
    compile_as_c_and_cpp(USE);
}

#[test]
fn compiles_after_the_real_dlpack_header() {
    compile_as_c_and_cpp(&format!("#include <ATen/dlpack.h>\n{USE}"));
}

#[test]
fn compiles_twice_in_one_file() {
    compile_as_c_and_cpp(&format!("#include <lambda_dpo.h>\n{USE}"));
}

#[test]
fn compiles_after_an_arrow_header() {
    let arrow = "#define ARROW_C_DATA_INTERFACE\n#define ARROW_C_STREAM_INTERFACE\n\
                 struct ArrowSchema { int other; };\nstruct ArrowArray { int other; };\nstruct ArrowArrayStream { int other; };\n";
    compile_as_c_and_cpp(&format!("{arrow}{USE}"));
}

/// C assertions for every offset, size and constant of a layout file.
fn assertions(layout: &Value) -> String {
    let entries = |value: &Value| value.as_object().unwrap().clone();
    let mut lines = Vec::new();
    for (name, item) in entries(&layout["structs"]) {
        // Arrow's structs have a tag but no typedef.
        let name = if name.starts_with("Arrow") { format!("struct {name}") } else { name };
        lines.push(format!("sizeof({name}) >= {}", item["size"]));
        for (field, place) in entries(&item["fields"]) {
            lines.push(format!("offsetof({name}, {field}) == {}", place["offset"]));
            lines.push(format!("sizeof((({name} *)0)->{field}) == {}", place["size"]));
        }
    }
    for (name, value) in entries(&layout["constants"]) {
        match value {
            Value::String(text) => lines.push(format!("sizeof({name}) == {}", text.len() + 1)),
            _ if name == "LAMBDA_DPO_ABI_MINOR" => lines.push(format!("{name} >= {value}")),
            _ => lines.push(format!("{name} == {value}")),
        }
    }
    lines.into_iter().map(|line| format!("LAYOUT({line});\n")).collect()
}

/// Covers the current revision and earlier ones: a later header may add to a layout but not change it.
#[test]
fn the_header_keeps_the_layout_of_every_revision() {
    let files = fs::read_dir(root().join("schemas")).unwrap().map(|entry| entry.unwrap().path());
    let layouts: Vec<PathBuf> =
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("abi-")).collect();
    assert!(!layouts.is_empty());
    for path in layouts {
        let layout: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let lines = assertions(&layout);
        assert!(lines.lines().count() > 400);
        let c = "#include <lambda_dpo.h>\n#define LAYOUT(x) _Static_assert(x, #x)\n";
        let cpp = "#include <lambda_dpo.h>\n#define LAYOUT(x) static_assert(x, #x)\n";
        // First with the header's own DLPack structs, then with those of the real DLPack header.
        for before in ["", "#include <ATen/dlpack.h>\n"] {
            compile("CC", "cc", "-std=c11", "c", &format!("{before}{c}{lines}"));
            compile("CXX", "c++", "-std=c++17", "c++", &format!("{before}{cpp}{lines}"));
        }
    }
}
