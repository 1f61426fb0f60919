//! Developer tasks that need Rust: `make lint` and `make generate` call them.
//!
//! ```text
//! cargo run -p lambda-dpo-ci -- header            writes plugin/include/lambda_dpo.h
//! cargo run -p lambda-dpo-ci -- header --check    fails if the committed header differs
//! cargo run -p lambda-dpo-ci -- layout            writes schemas/abi-*.json and schemas/lambda_dpo-*.h
//! cargo run -p lambda-dpo-ci -- layout --check    fails if they differ, or if the ABI breaks a frozen revision
//! cargo run -p lambda-dpo-ci -- walls             fails if a crate, a module or a file depends on one that it must not
//! cargo run -p lambda-dpo-ci -- circles [ROOT]    lists the circles of files in this workspace or the one at ROOT
//! cargo run -p lambda-dpo-ci -- layers [ROOT]     lists the uses of modules that are not in a lower layer
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

mod circles;
mod graph;
mod header;
mod layers;
mod layout;
mod walls;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the ci crate has no parent folder")?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["header"] => header::write(root),
        ["header", "--check"] => header::check(root),
        ["layout"] => layout::write(root),
        ["layout", "--check"] => layout::check(root),
        ["walls"] => walls::check(root),
        ["circles"] => circles::check(root),
        ["circles", root] => circles::check(Path::new(root)),
        ["layers"] => layers::check(root),
        ["layers", root] => layers::check(Path::new(root)),
        _ => bail!("usage: lambda-dpo-ci header [--check] | layout [--check] | walls | circles [ROOT] | layers [ROOT]"),
    }
}
