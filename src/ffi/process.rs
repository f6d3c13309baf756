//! The end of the process.

use std::io::Write as _;

/// Ends the process at once, with nothing but standard output flushed.
///
/// A return from `main` and `std::process::exit` both run the destructors of C++ libraries, and those tear down
/// what a thread that still loads a model is working with: OpenVINO crashes so.
#[allow(unsafe_code, reason = "libc's")]
pub fn exit(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: has no precondition; no destructor of any library runs, which is the purpose.
    unsafe { libc::_exit(code.into()) }
}
