//! The committed header is what the ABI crate gives, compiles as C11 and C++17 alone and after torch's `dlpack.h`, and
//! lays its structs out as Rust does.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use lambda_dpo_abi as abi;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

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

/// Calls the entry point through the type of a pointer to it, and a function of the table.
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
fn the_committed_header_is_what_the_abi_crate_gives() {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["run", "--quiet", "-p", "lambda-dpo-ci", "--", "header", "--check"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn compiles_alone() {
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

/// Size and offset assertions for C, from Rust's layout.
macro_rules! layout {
    ($($name:ident { $($field:ident),* $(,)? })*) => {{
        let mut lines = String::new();
        $(
            let c_name = format!("LambdaDpo{}", stringify!($name));
            lines += &format!("LAYOUT(sizeof({c_name}) == {});\n", size_of::<abi::$name>());
            $(
                let offset = offset_of!(abi::$name, $field);
                lines += &format!("LAYOUT(offsetof({c_name}, {}) == {offset});\n", stringify!($field));
            )*
        )*
        lines
    }};
}

#[test]
fn c_and_rust_agree_on_layout() {
    let lines = layout! {
        Str { data, len }
        Bytes { data, len, capacity }
        Error { struct_size, buffer, capacity, len }
        ConvertOptions {
            struct_size, format, best_worst_pairs, dimensions, num_dimensions, missing_rating, temperature, max_samples,
            exclude_sources, num_exclude_sources, keep_all,
        }
        TokenizeOptions { struct_size, cutoff_len, keep_all }
        CollateOptions { struct_size, layout, max_tokens, pad_to_multiple_of, pad_token_id }
        DatasetOptions { struct_size, convert, tokenize, progress, progress_user, cache_dir }
        ScheduleOptions { struct_size, kind, dimension, num_dimensions, alpha, weights, num_rows, probabilities }
        LossOptions { struct_size, objective, reduction, beta, normalizer, logits_budget_bytes, paper_exact, wants }
        Batch { struct_size, input_ids, sequence_ids, target_positions, lambda, record_indices, num_contributing }
        LossInputs { struct_size, hidden, sequence_log_probs, num_sequences, reference_log_probs, lambda }
        LossOutputs { struct_size, loss, sequence_log_probs, rewards, margins }
        LossGradients { struct_size, hidden, lm_head, logits, sequence_log_probs }
        BuildInfo { struct_size, version, torch_version }
        Api { struct_size, major, minor, build_info, dataset_open, loss_forward, loss_context_free }
    };
    let c = "#include <lambda_dpo.h>\n#define LAYOUT(x) _Static_assert(x, #x)\n";
    let cpp = "#include <lambda_dpo.h>\n#define LAYOUT(x) static_assert(x, #x)\n";
    compile("CC", "cc", "-std=c11", "c", &format!("{c}{lines}"));
    compile("CXX", "c++", "-std=c++17", "c++", &format!("{cpp}{lines}"));
}
