//! The Rust sides of `make bench`; the scripts in tests/bench run them beside PyTorch's.
//!
//! ```text
//! bench step SCENARIO        serves training steps, a line of JSON for each line on standard input
//! ```
#![expect(clippy::print_stdout, reason = "answers go to standard output")]

mod memory;
mod step;

use std::path::Path;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["step", scenario] => step::serve(Path::new(scenario)),
        _ => bail!("usage: bench step SCENARIO"),
    }
}
