//! The protocol of a measured process (the other end is tests/bench/serving.py): one command per line on standard
//! input, answered by one line of JSON on standard output.

use std::io::stdin;

use anyhow::{Result, bail};
use lambda_dpo_host::libtorch;
use serde_json::{Value, json};

/// A command to a measured process.
pub enum Command<'a> {
    /// Drop everything that was loaded.
    Drop,
    /// A command of the benchmark.
    Word(&'a str),
}

/// Reports the number of threads, then answers commands until standard input ends; `answer` returns None for an unknown
/// command.
///
/// # Errors
///
/// Returns an error if `answer` fails or does not know a command.
pub fn serve(mut answer: impl FnMut(Command) -> Result<Option<Value>>) -> Result<()> {
    println!("{}", json!({ "threads": libtorch::num_threads() }));
    for line in stdin().lines() {
        let value = match line?.trim() {
            word @ ("drop" | "trim") => {
                if word == "drop" {
                    answer(Command::Drop)?;
                }
                trim();
                json!({})
            }
            word => match answer(Command::Word(word))? {
                Some(value) => value,
                None => bail!("`{word}` is no command here, or it came after drop"),
            },
        };
        println!("{value}");
    }
    Ok(())
}

/// Returns free heap pages to the system, so that the resident set is the memory in use.
fn trim() {
    // SAFETY: may be called at any time, and only releases free memory.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
