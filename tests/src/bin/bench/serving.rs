//! The protocol of a measured process (tests/bench/serving.py has its other half): a command a line on standard input, a
//! line of JSON on standard output for each.

use std::io::stdin;

use anyhow::{Result, bail};
use lambda_dpo_host::libtorch;
use serde_json::{Value, json};

unsafe extern "C" {
    fn malloc_trim(pad: usize) -> i32;
}

/// What a process is asked for.
pub enum Command<'a> {
    /// Forget everything that was built.
    Drop,
    /// One of its own commands.
    Word(&'a str),
}

/// Tells the number of threads, then answers until standard input ends; `answer` gives None for what it does not know.
///
/// # Errors
///
/// What `answer` refuses or does not know.
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

/// Returns every free page of the heap to the system, so that the resident set is what is in use.
fn trim() {
    // SAFETY: glibc's function takes any number, may be called at any time, and touches free memory only.
    unsafe { malloc_trim(0) };
}
