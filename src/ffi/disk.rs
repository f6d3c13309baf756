//! What the system says of a folder without writing to it.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still write, bytes.
    pub free_bytes: u64,
    /// All of it, bytes.
    pub total_bytes: u64,
    /// Mounted so that nothing can be written.
    pub read_only: bool,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Room on the file system of `path`, which must exist.
///
/// # Errors
/// Those of `statvfs`.
#[allow(unsafe_code, reason = "libc's")]
pub fn space(path: &Path) -> io::Result<Space> {
    let path = c_path(path)?;
    let mut found = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path is NUL-terminated, and `found` has room for the one structure that is written.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, which is a valid value, and written by the call.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "32 bits wide on some systems")]
    let bytes = |blocks: libc::fsblkcnt_t| (blocks as u64).saturating_mul(found.f_frsize as u64);
    Ok(Space {
        free_bytes: bytes(found.f_bavail),
        total_bytes: bytes(found.f_blocks),
        read_only: found.f_flag & libc::ST_RDONLY != 0,
    })
}

/// Whether this process may make files in the folder `path`.
///
/// # Errors
/// The system's reason why not.
#[allow(unsafe_code, reason = "libc's")]
pub fn writable(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    let path = c_path(path)?;
    // SAFETY: the path is NUL-terminated.
    match unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
