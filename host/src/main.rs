//! The `lambda-dpo` program.

use std::io::Write;

use clap::Parser;
use lambda_dpo_host::cli::Cli;
use lambda_dpo_host::{commands, libtorch};

/// Exit status after an error.
const FAILURE: u8 = 1;

fn main() {
    libtorch::use_huge_pages();
    let code = commands::run(&Cli::parse()).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {}", sentence(&error));
        FAILURE
    });
    libtorch::exit(code)
}

/// Joins the error with those of its causes that it does not already quote.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
