//! One writer for each plan across processes: a lock file that the kernel unlocks when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct KeyLock {
    path: PathBuf,
    /// Closing it unlocks.
    _file: File,
}

/// What came of trying.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is ours.
    Held(KeyLock),
    /// Another holds it.
    Busy,
}

impl KeyLock {
    /// Tries to lock; never blocks.
    ///
    /// # Errors
    /// The file system's: it is read-only, say, or knows no locks.
    pub(super) fn try_lock(path: &Path) -> io::Result<Attempt> {
        loop {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Busy),
                Err(TryLockError::Error(e)) => return Err(e),
            }
            // Its last holder may have removed the file between our opening and our locking: what we hold then
            // is a lock that nobody else will ever see.
            let ours = file.metadata()?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Attempt::Held(Self { path: path.to_owned(), _file: file }));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for KeyLock {
    /// Removes the file while it is still locked, so that nobody else's is removed.
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), error = %e, "a lock file stays behind");
        }
    }
}
