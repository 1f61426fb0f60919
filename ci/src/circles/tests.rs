//! Crates with and without circles, written to a temporary folder, and a circle planted in a copy of the host.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use tempfile::TempDir;

use super::*;

/// Writes a crate with these files in `src`.
fn written(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Cargo.toml"), "[package]\nname = \"planted\"\nedition = \"2024\"\n").unwrap();
    for (path, text) in files {
        let path = folder.path().join("src").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

/// Checks that the crate is refused for one circle with exactly these uses.
fn refused(files: &[(&str, &str)], uses: &[&str]) {
    let folder = written(files);
    let text = check(folder.path()).unwrap_err().to_string();
    let found: Vec<_> = text.lines().filter(|line| line.contains("->")).map(str::trim).collect();
    assert_eq!(found, uses, "{text}");
    assert_eq!(text.matches(": a circle of ").count(), 1, "{text}");
}

fn accepted(files: &[(&str, &str)]) {
    check(written(files).path()).unwrap();
}

#[test]
fn a_circle_through_use_is_refused() {
    refused(
        &[
            ("lib.rs", "mod a; mod b; mod c;"),
            (
                "a.rs",
                "use crate::{b::{self, Second as Renamed}, c::Third}; pub struct First(Renamed, b::Second, Third);",
            ),
            ("b.rs", "use crate::a::First; pub struct Second(Option<Box<First>>);"),
            ("c.rs", "pub struct Third;"),
        ],
        &["src/a.rs -> src/b.rs: Second", "src/b.rs -> src/a.rs: First"],
    );
}

#[test]
fn a_circle_through_others_is_refused_once() {
    refused(
        &[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use super::b::second; pub fn first() { second() }"),
            ("b.rs", "use super::c::third; pub fn second() { third() }"),
            ("c.rs", "use super::a::first; pub fn third() { first() }"),
        ],
        &["src/a.rs -> src/b.rs: second", "src/b.rs -> src/c.rs: third", "src/c.rs -> src/a.rs: first"],
    );
}

#[test]
fn a_circle_through_re_exports_is_refused() {
    refused(
        &[
            ("lib.rs", "mod door;"),
            ("door.rs", "mod a; mod b; pub use a::*; pub(crate) use b::Second as Renamed;"),
            ("door/a.rs", "use super::Renamed; pub enum First { Some(Renamed), None }"),
            ("door/b.rs", "use super::First::{self, Some}; pub struct Second(Box<First>);"),
        ],
        &["src/door/a.rs -> src/door/b.rs: Second", "src/door/b.rs -> src/door/a.rs: First"],
    );
}

#[test]
fn a_circle_through_paths_without_use_is_refused() {
    refused(
        &[
            ("lib.rs", "mod a; mod b { pub mod inner; }"),
            ("a.rs", "pub const SIZE: usize = crate::b::inner::size();"),
            ("b/inner.rs", "pub const fn size() -> usize { 1 } fn other() { println!(\"{}\", super::super::a::SIZE) }"),
        ],
        &["src/a.rs -> src/b/inner.rs: size", "src/b/inner.rs -> src/a.rs: SIZE"],
    );
}

#[test]
fn a_circle_through_an_imported_module_is_refused() {
    refused(
        &[
            ("lib.rs", "mod door; mod user;"),
            ("door.rs", "pub mod log;"),
            ("door/log.rs", "use crate::user::{Name}; pub fn say(_: Name) {}"),
            ("user.rs", "use crate::door::log; pub struct Name; pub fn run() { if true { log::say(Name) } }"),
        ],
        &["src/door/log.rs -> src/user.rs: Name", "src/user.rs -> src/door/log.rs: say"],
    );
}

#[test]
fn a_parent_that_uses_its_children_and_defines_what_they_use_is_refused() {
    refused(
        &[
            ("lib.rs", "mod door;"),
            ("door.rs", "mod child; pub use child::Step; pub struct Options; pub fn run() { Step::of(Options); }"),
            ("door/child.rs", "use super::Options; pub struct Step; impl Step { pub fn of(_: Options) {} }"),
        ],
        &["src/door.rs -> src/door/child.rs: Step", "src/door/child.rs -> src/door.rs: Options"],
    );
}

#[test]
fn a_re_export_from_a_neighbour_counts_as_a_use() {
    refused(
        &[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub use crate::b::Second; pub struct First;"),
            ("b.rs", "use crate::a::First; pub struct Second(First);"),
        ],
        &["src/a.rs -> src/b.rs: Second", "src/b.rs -> src/a.rs: First"],
    );
}

#[test]
fn a_circle_through_macros_is_refused() {
    refused(
        &[
            ("main.rs", "macro_rules! list { ($name:ident) => { $crate::{a::First, b::Second} } } mod a; mod b;"),
            ("a.rs", "macro_rules! named { () => {} } pub(crate) use named; pub struct First; list!(x);"),
            ("b.rs", "use crate::a::named; named!(); pub struct Second;"),
        ],
        &[
            "src/main.rs -> src/a.rs: First",
            "src/main.rs -> src/b.rs: Second",
            "src/a.rs -> src/main.rs: list",
            "src/b.rs -> src/a.rs: named",
        ],
    );
}

#[test]
fn re_exports_from_below_and_test_code_make_no_circle() {
    accepted(&[
        ("lib.rs", "mod door; mod user; pub use door::Top; pub const LIMIT: usize = 1; pub struct Shared;"),
        // Re-exports what is built on its own definitions; has a variable and a field named like a re-exported
        // function.
        (
            "door.rs",
            "mod child; mod error; pub use child::{Top, total}; pub use error::*;
             pub struct Options { pub total: usize }
             pub fn count(total: usize) -> Options {
                 let options = Options { total };
                 assert!(options.total == total);
                 options
             }",
        ),
        (
            "door/child.rs",
            "use super::{Options, Error}; use crate::Shared;
             pub struct Top(Options); pub fn total(_: Error) -> Shared { Shared }",
        ),
        ("door/error.rs", "pub struct Error;\n#[cfg(test)]\nmod tests { use super::super::Top; }"),
        (
            "user.rs",
            "use crate::door::{self, Top}; use std::collections::HashMap as Top2;
             #[cfg(all(test, unix))] mod tests;
             #[test] fn top() {}
             pub fn run(_: Top) { door::count(crate::LIMIT); self::local::run() }
             mod local { pub fn run() {} }",
        ),
    ]);
}

#[test]
fn a_circle_planted_in_a_copy_of_the_host_is_refused() {
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("host");
    let files = source_files(&host.join("src"));
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let folder = written(&files);
    let library = |folder: &TempDir| {
        let graphs = graph::of_workspace(&graph::metadata(folder.path()).unwrap()).unwrap();
        graphs.into_iter().find(|graph| graph.crate_name == "planted").unwrap()
    };

    // A file that uses another, which does not use it, directly or through others.
    let graph = library(&folder);
    let leads_to = |from: FileId, to: FileId| reached_from(&graph, from)[to];
    let uses = (0..graph.files.len()).flat_map(|user| graph.used_by(user).map(move |used| (user, used)));
    let mut one_way = uses.filter(|&(user, used)| !graph.files[user].module.is_empty() && !leads_to(used, user));
    // An item that the first file defines, for the second to use.
    let (user, used, name) = one_way
        .find_map(|(user, used)| {
            let name = graph.files.iter().find_map(|file| file.uses.get(&user)?.keys().find(|name| *name != "*"))?;
            Some((user, used, name))
        })
        .unwrap();
    let [user_path, used_path] = [user, used].map(|file| graph.files[file].path.display().to_string());
    let planted = format!("use crate::{}::{name};\n", graph.files[user].module.join("::"));
    let back = format!("{used_path} -> {user_path}: {name}");
    assert!(!breaches(&graph).concat().contains(&back));

    let path = folder.path().join(&graph.files[used].path);
    fs::write(&path, fs::read_to_string(&path).unwrap() + &planted).unwrap();
    let circles = breaches(&library(&folder));
    let planted = circles.iter().find(|circle| circle.contains(&back));
    assert!(planted.is_some_and(|circle| circle.contains(&format!("{user_path} -> {used_path}: "))), "{circles:#?}");
}

/// Returns the paths below `folder` and the texts of its Rust files.
fn source_files(folder: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push((
                    path.strip_prefix(folder).unwrap().display().to_string(),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    files
}
