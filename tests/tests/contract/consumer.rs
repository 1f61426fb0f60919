//! Programs in C: the example compiled with the current header, and with the header of each earlier revision, which
//! later libraries must still serve.

use std::path::{Path, PathBuf};
use std::process::Command;

use lambda_dpo_tests::{fixture, plugin_library, root};

/// Compiles the example with the `lambda_dpo.h` in `include`.
fn compile(include: &Path, program: &Path) {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let output = Command::new(&compiler)
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-I"])
        .arg(include)
        .arg(root().join("plugin/examples/train_toy.c"))
        .arg("-o")
        .arg(program)
        .arg("-ldl")
        .output()
        .unwrap();
    assert!(output.status.success(), "{compiler}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The losses that a run prints.
fn losses(program: &Path) -> Vec<f64> {
    let output = Command::new(program).arg(plugin_library()).arg(fixture("words")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
fn the_c_example_trains() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("train_toy");
    compile(&root().join("plugin/include"), &program);
    let losses = losses(&program);
    assert_eq!(losses.len(), 5);
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert!(losses[4] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn the_c_example_says_what_went_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("train_toy");
    compile(&root().join("plugin/include"), &program);
    let output = Command::new(&program).arg(plugin_library()).arg("/no/such/folder").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "tokenizer_open failed with status 2: /no/such/folder: there is no such model folder\n"
    );
}

#[test]
fn programs_of_every_revision_are_served() {
    let frozen: Vec<PathBuf> = std::fs::read_dir(root().join("schemas"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "h"))
        .collect();
    assert!(!frozen.is_empty());
    for header in frozen {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(&header, folder.path().join("lambda_dpo.h")).unwrap();
        let program = folder.path().join("train_toy");
        compile(folder.path(), &program);
        assert_eq!(losses(&program).len(), 5, "{}", header.display());
    }
}
