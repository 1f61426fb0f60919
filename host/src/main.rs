//! The `lambda-dpo` program.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use lambda_dpo_host::cli::Cli;
use lambda_dpo_host::{commands, libtorch};

fn main() -> ExitCode {
    libtorch::use_huge_pages();
    match commands::run(&Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
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
