//! Files of the plan cache: written whole or not at all, read only as far as they may be long.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::lock::{Attempt, KeyLock};

/// How bytes reach a file; tests put one here that fails.
pub(super) type WriteFn = fn(&mut File, &[u8]) -> io::Result<()>;

/// The one that does not fail by design.
pub(super) fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)
}

/// The lock file of what is written under `lock_name`.
pub(super) fn lock_path(dir: &Path, lock_name: &str) -> PathBuf {
    dir.join(format!(".{lock_name}{LOCK}"))
}

const LOCK: &str = ".lock";
/// Between the name of the lock that its writer holds, and the writer's process.
const TEMPORARY: &str = ".tmp-";

/// Writes `path` so that a reader sees the old file or the new one, and a crash leaves at most a temporary file
/// that [`sweep`] knows by the lock that its writer held.
pub(super) fn write(path: &Path, lock_name: &str, bytes: &[u8], write: WriteFn) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let dir = path.parent().unwrap_or(Path::new("."));
    let number = NUMBER.fetch_add(1, Relaxed);
    let temporary = dir.join(format!(".{lock_name}{TEMPORARY}{}-{number}", std::process::id()));
    let written = write_and_sync(&temporary, bytes, write)
        .and_then(|()| std::fs::rename(&temporary, path))
        .and_then(|()| sync_folder(dir));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn write_and_sync(path: &Path, bytes: &[u8], write: WriteFn) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    write(&mut file, bytes)?;
    file.sync_all()
}

/// A rename is on disk only when its folder is.
fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a file that may have at most `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let too_long = |n| io::Error::other(format!("it has {n} bytes, at most {most} are expected"));
    if size > most {
        return Err(too_long(size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Removes what writers that died have left: files whose lock nobody holds.
pub(super) fn sweep(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|n| n.strip_prefix('.')) else { continue };
        let (lock_name, temporary) = match (name.split_once(TEMPORARY), name.strip_suffix(LOCK)) {
            (Some((lock_name, _)), _) => (lock_name, true),
            (None, Some(lock_name)) => (lock_name, false),
            (None, None) => continue,
        };
        // Dropping the lock removes its file.
        if let Ok(Attempt::Held(_lock)) = KeyLock::try_lock(&lock_path(dir, lock_name))
            && temporary
            && std::fs::remove_file(entry.path()).is_ok()
        {
            tracing::info!(path = %entry.path().display(), "removed what a writer that died has left");
        }
    }
}
