//! The plan cache's folder: `<model>-<version>-<key>.plan` with its note beside it, plans that were set aside, and
//! timing caches. Whoever changes a plan holds its key's lock ([`super::lock`]).

use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::key::{Entry, SHORT_KEY};
use super::lock::{Attempt, KeyLock};
use super::network::hex;
use super::note::{MAX_NOTE_BYTES, Note, Rejection, now};
use super::store::{self, WriteFn};

const PLAN: &str = ".plan";
const PLAN_NOTE: &str = ".plan.json";
const REJECTED: &str = ".rejected";
const REJECTED_NOTE: &str = ".rejected.json";
const TIMING: (&str, &str) = ("timing-", ".cache");

/// Largest timing cache that is kept, bytes; TensorRT's are a few MB.
const MAX_TIMING_BYTES: u64 = 256 << 20;

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) write: WriteFn,
}

/// What is there for a key.
#[derive(Debug)]
pub(super) enum Found {
    /// A plan that is what its note says.
    Plan(Vec<u8>),
    /// Nothing.
    Missing,
    /// Something that cannot be used, and why.
    Corrupt(String),
}

impl Folder {
    pub(super) fn plan_path(&self, stem: &str) -> PathBuf {
        self.path(stem, PLAN)
    }

    fn path(&self, stem: &str, suffix: &str) -> PathBuf {
        self.dir.join(format!("{stem}{suffix}"))
    }

    /// Tries to take the lock of a key.
    ///
    /// # Errors
    /// The folder cannot be made or written, or knows no locks.
    pub(super) fn try_lock(&self, short_key: &str) -> io::Result<Attempt> {
        std::fs::create_dir_all(&self.dir)?;
        KeyLock::try_lock(&store::lock_path(&self.dir, short_key))
    }

    /// Reads a plan and holds it against its note.
    pub(super) fn load(&self, entry: &Entry) -> Found {
        let missing = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let path = self.plan_path(&entry.stem);
        let note = match store::read(&self.path(&entry.stem, PLAN_NOTE), MAX_NOTE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if missing(&e) && !path.exists() => return Found::Missing,
            Err(e) => return Found::Corrupt(format!("its note cannot be read: {e}")),
        };
        let note: Note = match serde_json::from_slice(&note) {
            Ok(note) => note,
            Err(e) => return Found::Corrupt(format!("its note does not parse: {e}")),
        };
        if note.key != entry.key {
            return Found::Corrupt(format!("its note is of another plan, {}", note.key));
        }
        let bytes = match store::read(&path, note.size_bytes) {
            Ok(bytes) => bytes,
            Err(e) if missing(&e) => return Found::Missing,
            Err(e) => return Found::Corrupt(format!("it cannot be read: {e}")),
        };
        if bytes.len() as u64 != note.size_bytes {
            return Found::Corrupt(format!("it has {} bytes, not {}", bytes.len(), note.size_bytes));
        }
        if hex(&Sha256::digest(&bytes)) != note.sha256 {
            return Found::Corrupt("its bytes are not those that were written".to_owned());
        }
        Found::Plan(bytes)
    }

    /// Notes when a plan was last used, which is what pruning goes by.
    pub(super) fn touch(&self, stem: &str) {
        let path = self.plan_path(stem);
        let touched = std::fs::File::open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        if let Err(e) = touched {
            tracing::debug!(path = %path.display(), error = %e, "the time of use cannot be noted");
        }
    }

    /// Writes a plan and its note.
    pub(super) fn save(&self, entry: &Entry, plan: &[u8], note: &Note) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        let write = |suffix: &str, bytes: &[u8]| {
            store::write(&self.path(&entry.stem, suffix), entry.short_key(), bytes, self.write)
        };
        write(PLAN, plan)?;
        write(PLAN_NOTE, &note.bytes()).inspect_err(|_| {
            // A plan without its note would be taken for a damaged one.
            let _ = std::fs::remove_file(self.plan_path(&entry.stem));
        })
    }

    /// Kernel times of earlier builds, or nothing. The file starts with the hash of the rest.
    pub(super) fn timing(&self, entry: &Entry) -> Vec<u8> {
        let Some(file) = &entry.timing else { return Vec::new() };
        let Ok(bytes) = store::read(&self.dir.join(file), MAX_TIMING_BYTES) else { return Vec::new() };
        match bytes.split_at_checked(32) {
            Some((hash, rest)) if Sha256::digest(rest).as_slice() == hash => rest.to_vec(),
            _ => {
                tracing::warn!(file, "the timing cache is damaged; this build measures anew");
                Vec::new()
            }
        }
    }

    /// Keeps kernel times; the last builder's stay.
    pub(super) fn save_timing(&self, entry: &Entry, times: &[u8]) {
        let Some(file) = entry.timing.as_ref().filter(|_| !times.is_empty()) else { return };
        let bytes = [Sha256::digest(times).as_slice(), times].concat();
        if let Err(e) = store::write(&self.dir.join(file), entry.short_key(), &bytes, self.write) {
            tracing::warn!(file, error = %e, "the timing cache cannot be kept");
        }
    }

    /// The notes of all plans of the same model version as `stem`.
    pub(super) fn notes_like(&self, stem: &str) -> Vec<Note> {
        let stems = self.stems(PLAN_NOTE).into_iter().filter(|s| same_model(s, stem));
        stems.filter_map(|stem| self.note(&stem)).collect()
    }

    fn note(&self, stem: &str) -> Option<Note> {
        let bytes = store::read(&self.path(stem, PLAN_NOTE), MAX_NOTE_BYTES).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Moves a plan out of the way, with the reason in its note; only the latest of a model version is kept.
    pub(super) fn set_aside(&self, stem: &str, reason: &str) {
        let plan = self.plan_path(stem);
        tracing::warn!(path = %plan.display(), reason, "the plan is set aside and will be built again");
        let rejected = Rejection { reason: reason.to_owned(), at: now() };
        let note = match self.note(stem) {
            Some(note) => Note { rejected: Some(rejected), ..note }.bytes(),
            None => serde_json::json!({ "rejected": rejected }).to_string().into_bytes(),
        };
        for old in self.stems(REJECTED).iter().filter(|old| same_model(old, stem)) {
            self.remove(old, [REJECTED, REJECTED_NOTE]);
        }
        let moved = std::fs::rename(&plan, self.path(stem, REJECTED))
            .and_then(|()| store::write(&self.path(stem, REJECTED_NOTE), short_key(stem), &note, self.write));
        // Whatever came of that, the plan must not be found again.
        self.remove(stem, [PLAN, PLAN_NOTE]);
        if let Err(e) = moved {
            tracing::warn!(path = %plan.display(), error = %e, "the plan is gone: it cannot be kept aside");
        }
    }

    fn remove(&self, stem: &str, suffixes: [&str; 2]) {
        for path in suffixes.map(|suffix| self.path(stem, suffix)) {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => tracing::warn!(path = %path.display(), error = %e, "cannot be removed"),
            }
        }
    }

    /// Removes files until the folder's own hold at most `max_bytes`: what was set aside first, then what was not
    /// used for longest; nothing of `in_use`, and nothing that another process builds.
    pub(super) fn prune(&self, max_bytes: u64, in_use: &HashSet<String>) {
        let mut files = self.files();
        let mut total: u64 = files.iter().map(|f| f.bytes).sum();
        files.sort_by_key(|f| (f.suffixes[0] != REJECTED, f.used));
        for file in files {
            if total <= max_bytes {
                return;
            }
            let kept = in_use.contains(&file.stem);
            let _lock = match self.try_lock(short_key(&file.stem)) {
                Ok(Attempt::Held(lock)) if !kept => lock,
                Ok(Attempt::Held(_) | Attempt::Busy) | Err(_) => continue,
            };
            tracing::info!(
                path = %self.path(&file.stem, file.suffixes[0]).display(),
                bytes = file.bytes,
                max_bytes,
                "pruned from the plan cache"
            );
            self.remove(&file.stem, file.suffixes);
            total -= file.bytes;
        }
        if total > max_bytes {
            tracing::warn!(
                dir = %self.dir.display(),
                bytes = total,
                max_bytes,
                "the plan cache is over its bound, all of it in use; raise --plan-cache-bytes"
            );
        }
    }

    /// Every plan, set-aside plan and timing cache, with its note; strangers' files are left alone.
    fn files(&self) -> Vec<CacheFile> {
        let size = |path: &Path| std::fs::metadata(path).ok();
        let bytes = |m: Option<&Metadata>| m.map_or(0, Metadata::len);
        let mut files = Vec::new();
        for suffixes in [[PLAN, PLAN_NOTE], [REJECTED, REJECTED_NOTE]] {
            for stem in self.stems(suffixes[0]) {
                let [first, note] = suffixes.map(|suffix| size(&self.path(&stem, suffix)));
                let used = first.as_ref().and_then(|m| m.modified().ok());
                files.push(CacheFile {
                    bytes: bytes(first.as_ref()) + bytes(note.as_ref()),
                    used,
                    stem,
                    suffixes,
                });
            }
        }
        for name in self.names() {
            if let Some(stem) = name.strip_suffix(TIMING.1).filter(|s| s.starts_with(TIMING.0)) {
                let found = size(&self.dir.join(&name));
                let used = found.as_ref().and_then(|m| m.modified().ok());
                let bytes = bytes(found.as_ref());
                files.push(CacheFile { stem: stem.to_owned(), suffixes: [TIMING.1, ""], bytes, used });
            }
        }
        files
    }

    /// Stems of the files with that suffix whose names are of our making.
    fn stems(&self, suffix: &str) -> Vec<String> {
        let names = self.names().into_iter();
        names.filter_map(|n| Some(n.strip_suffix(suffix)?.to_owned())).filter(|s| is_stem(s)).collect()
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| !n.starts_with('.'))
            .collect()
    }
}

struct CacheFile {
    stem: String,
    /// Of the file itself, and of its note.
    suffixes: [&'static str; 2],
    bytes: u64,
    used: Option<SystemTime>,
}

/// Whether a file's stem ends as [`Entry::stem`] does.
fn is_stem(stem: &str) -> bool {
    stem.rsplit_once('-').is_some_and(|(name, key)| {
        !name.is_empty() && key.len() == SHORT_KEY && key.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// The key's part of a plan's stem; of other files, the whole.
fn short_key(stem: &str) -> &str {
    if is_stem(stem) { &stem[stem.len() - SHORT_KEY..] } else { stem }
}

/// Whether two stems are of the same model version.
fn same_model(a: &str, b: &str) -> bool {
    matches!((a.rsplit_once('-'), b.rsplit_once('-')), (Some((a, _)), Some((b, _))) if a == b)
}
