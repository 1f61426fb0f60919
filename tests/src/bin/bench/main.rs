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
use lambda_dpo_host::libtorch;

fn main() -> Result<()> {
    // Like the program.
    libtorch::use_huge_pages();
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
