//! The end of the process.

use std::io::Write;

unsafe extern "C" {
    fn _exit(status: i32) -> !;
}

/// Ends the process with what it has written, but without libtorch's destructors: for a tenth of a second they would
/// forget thousands of operators one by one, beside threads of the process that may still use some of them.
pub fn exit(code: u8) -> ! {
    // Nobody is left to tell if this fails.
    let _ = std::io::stdout().flush();
    // SAFETY: it only ends the process; all that has to outlive it has been written.
    unsafe { _exit(i32::from(code)) }
}
