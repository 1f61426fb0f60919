//! The `lambda-dpo` program.

use std::io::Write;

use clap::Parser;
use lambda_dpo_host::cli::{Cli, Command};
use lambda_dpo_host::{commands, libtorch};
use mimalloc::MiMalloc;

/// Serves libtorch as well, since its feature `override` gives the program functions named malloc and free, which the
/// dynamic linker prefers to the C library's. A training step allocates and frees gigabytes: the C library returns them to
/// Linux each time, which has to zero every page that it gives out again.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Exit status after an error.
const FAILURE: u8 = 1;

fn main() {
    let cli = Cli::parse();
    keep_freed_memory(&cli.command);
    let code = commands::run(&cli).unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {}", sentence(&error));
        FAILURE
    });
    libtorch::exit(code)
}

/// Has the allocator keep freed memory instead of giving it back a second later: the next step needs it again, however long
/// this one takes. A server gives back after 10 seconds what it needed once.
fn keep_freed_memory(command: &Command) {
    /// `mi_option_purge_delay`, which libmimalloc-sys does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    let milliseconds = match command {
        Command::Serve(_) => 10_000,
        _ => -1,
    };
    // SAFETY: sets a number; mimalloc reads its options with atomic operations.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, milliseconds) };
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
