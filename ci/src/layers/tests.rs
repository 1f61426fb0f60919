//! A crate that breaches its layers.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use super::*;

#[test]
fn uses_of_neighbours_and_of_layers_above_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"layered\"\nedition = \"2024\"\n").unwrap();
    fs::create_dir_all(folder.path().join("src/top")).unwrap();
    for (path, text) in [
        ("lib.rs", "mod ground; mod beside; mod top; mod new; pub use top::inner::run; pub const LIMIT: usize = 1;"),
        ("ground.rs", "pub fn low() { crate::run() } pub struct Low;"),
        ("beside.rs", "use super::ground::Low; pub struct Beside(Low); pub const LIMIT: usize = crate::LIMIT;"),
        ("top.rs", "pub mod inner; use crate::{beside::Beside, ground}; pub struct Top(Beside, ground::Low);"),
        ("top/inner.rs", "use super::Top; pub fn run() {} fn top(_: Top) {}"),
        ("new.rs", ""),
    ] {
        fs::write(folder.path().join("src").join(path), text).unwrap();
    }
    let graphs = graph::of_workspace(&graph::metadata(folder.path()).unwrap()).unwrap();
    assert_eq!(
        breaches_of(&graphs[0], &[&["ground", "beside"], &["gone"], &["top"]]),
        [
            "layered: module `new` is in no layer: add it to ci/src/layers.rs",
            "layered: ci/src/layers.rs lists `gone`, which is not a module",
            "layered: `ground` must not use `top`\n    src/ground.rs -> src/top/inner.rs: run",
            "layered: `beside` must not use the root file\n    src/beside.rs -> src/lib.rs: LIMIT",
            "layered: `beside` must not use `ground`\n    src/beside.rs -> src/ground.rs: Low",
        ]
    );
}
