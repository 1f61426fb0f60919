//! Versions, exported symbols, and error messages.

use std::process::Command;
use std::ptr::{null, null_mut};

use lambda_dpo_abi as abi;
use lambda_dpo_host::plugin::Plugin;
use lambda_dpo_tests::table::{self, api, checked, get_api};
use lambda_dpo_tests::{fixture, plugin_library, root};

#[test]
fn exports_one_symbol() {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(plugin_library()).output().unwrap();
    let symbols: Vec<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().last().map(str::to_owned))
        .collect();
    assert_eq!(symbols, [abi::ENTRY_POINT]);
}

#[test]
pub fn refuses_other_majors_and_newer_minors() {
    let served = "use a library of the caller's version";
    for (major, minor) in [(abi::ABI_MAJOR + 1, 0), (0, 0), (abi::ABI_MAJOR, abi::ABI_MINOR + 1)] {
        let (status, message) = get_api(major, minor).unwrap_err();
        assert_eq!(status, abi::STATUS_UNSUPPORTED);
        assert_eq!(
            message,
            format!("the caller asks for plugin ABI {major}.{minor}, this library serves 1.0 to 1.0; {served}")
        );
    }
}

#[test]
pub fn names_the_versions_it_was_built_for() {
    let empty = abi::Str { data: null(), len: 0 };
    let mut info = abi::BuildInfo { struct_size: size_of::<abi::BuildInfo>(), version: empty, torch_version: empty };
    // SAFETY: `info` is valid, and its strings are static.
    let torch = unsafe {
        checked(|error| (api().build_info)(&mut info, error)).unwrap();
        std::str::from_utf8(std::slice::from_raw_parts(info.torch_version.data, info.torch_version.len)).unwrap()
    };
    assert_eq!(torch, "2.11.0");
}

#[test]
fn a_missing_plugin_is_named_with_the_way_out() {
    let missing = fixture("no-such-library.so");
    let message = Plugin::load(Some(&missing)).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "the plugin liblambda_dpo.so was not found at {}; give its path with --plugin FILE or LAMBDA_DPO_PLUGIN",
            missing.display()
        )
    );
}

/// A library whose table ends after its first field, as an older revision's would before its newest function.
const SHORT_TABLE: &str = r#"
#include "lambda_dpo.h"
static const size_t table[2] = {sizeof(size_t), 0};
LambdaDpoStatus lambda_dpo_get_api(uint32_t major, uint32_t minor, const LambdaDpoApi **api, LambdaDpoError *error) {
  (void)major, (void)minor;
  *api = (const LambdaDpoApi *)(const void *)table;
  error->len = 0;
  return LAMBDA_DPO_STATUS_OK;
}
"#;

#[test]
fn a_table_that_lacks_functions_is_refused_before_one_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("short.c"), folder.path().join("short.so"));
    std::fs::write(&source, SHORT_TABLE).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler)
        .args(["-shared", "-fPIC", "-I"])
        .arg(root().join("plugin/include"))
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let message = Plugin::load(Some(&library)).unwrap_err().to_string();
    let (found, expected) = (size_of::<usize>(), size_of::<abi::Api>());
    assert_eq!(
        message,
        format!(
            "{}: this plugin's table has {found} bytes, but this program calls functions of a table of {expected}: it is \
             older than the program, use the plugin of the same version",
            library.display()
        )
    );
}

#[test]
fn a_record_that_does_not_parse_is_reported_by_its_index() {
    let options = table::convert_options(abi::FORMAT_ULTRAFEEDBACK);
    let (status, message) = table::convert_record("{}", 7, &options).unwrap_err();
    assert_eq!(status, abi::STATUS_INVALID_DATA);
    assert!(message.starts_with("record 7: "), "{message}");
}

#[test]
fn cuts_messages_between_characters() {
    // The message contains "λ", which has two bytes; it must not be cut in half.
    // SAFETY: zero is valid for options.
    let options = unsafe { abi::ScheduleOptions { kind: 99, num_dimensions: 2, ..table::sized() } };
    for capacity in 0..64 {
        let mut buffer = vec![0xAA_u8; 64];
        let mut error =
            abi::Error { struct_size: size_of::<abi::Error>(), buffer: buffer.as_mut_ptr(), capacity, len: 0 };
        let mut schedule = null_mut();
        // SAFETY: all pointers are valid.
        let status = unsafe { (api().schedule_new)(&options, &mut schedule, &mut error) };
        assert_eq!(status, abi::STATUS_INVALID_ARGUMENT);
        assert!(error.len > capacity || capacity >= 40);
        let written = buffer.iter().position(|byte| *byte == 0xAA).unwrap_or(buffer.len());
        assert!(written <= capacity);
        assert!(std::str::from_utf8(&buffer[..written]).is_ok());
    }
}
