//! The Rust side of `make bench` and `make gpu-check`, which tests/bench and tests/gpu compare with PyTorch.
//!
//! ```text
//! bench step SCENARIO                     a whole training step
//! bench layouts DEVICE                    loss and gradient of every layout on a device, against float64 on the CPU
//! bench log-probs FILE frozen|trained     log-probs and their backward, with the LM head frozen or trained
//! bench data-path RECORDS MODEL           from records to batches
//! bench plot OUT.svg                      the plot described on standard input
//! ```
#![expect(clippy::print_stdout, reason = "results go to standard output")]

mod data_path;
mod layouts;
mod log_probs;
mod plot;
mod serving;
mod step;

use std::path::Path;

use anyhow::{Result, bail};
use mimalloc::MiMalloc;

/// The program's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Has the allocator keep freed memory for an hour, as the program keeps it for good: unless it is asked to give it back,
/// which it does not do if it is never to.
fn keep_freed_memory() {
    /// `mi_option_purge_delay`, which libmimalloc-sys does not name.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: sets a number; mimalloc reads its options with atomic operations.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 3_600_000) };
}

fn main() -> Result<()> {
    keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["step", scenario] => step::run(Path::new(scenario)),
        ["layouts", device] => layouts::run(device),
        ["log-probs", file, "frozen"] => log_probs::run(Path::new(file), false),
        ["log-probs", file, "trained"] => log_probs::run(Path::new(file), true),
        ["data-path", records, model] => data_path::run(Path::new(records), Path::new(model)),
        ["plot", out] => plot::run(Path::new(out)),
        _ => {
            bail!(
                "usage: bench step SCENARIO | layouts DEVICE | log-probs FILE frozen|trained | data-path RECORDS MODEL \
                 | plot OUT.svg"
            )
        }
    }
}
