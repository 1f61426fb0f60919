//! Developer tasks that need Rust: `make lint` and `make generate` call them.
//!
//! ```text
//! cargo run -p lambda-dpo-ci -- header            writes plugin/include/lambda_dpo.h
//! cargo run -p lambda-dpo-ci -- header --check    fails if the committed header differs
//! cargo run -p lambda-dpo-ci -- layout            writes schemas/abi-*.json and schemas/lambda_dpo-*.h
//! cargo run -p lambda-dpo-ci -- layout --check    fails if they differ, or a frozen revision is not kept
//! cargo run -p lambda-dpo-ci -- walls             fails if a crate depends on what it must not know
//! ```
#![expect(clippy::print_stdout, reason = "a command-line program")]

mod header;
mod layout;
mod walls;

use std::path::Path;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the ci crate has no parent folder")?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["header"] => header::write(root),
        ["header", "--check"] => header::check(root),
        ["layout"] => layout::write(root),
        ["layout", "--check"] => layout::check(root),
        ["walls"] => walls::check(root),
        _ => bail!("usage: lambda-dpo-ci header [--check] | layout [--check] | walls"),
    }
}
