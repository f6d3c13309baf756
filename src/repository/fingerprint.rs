//! What a model's folder looks like from outside: two equal looks with some time between say that nobody writes to it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Deepest folder that is looked into, and most files that are looked at: a folder beyond is no model's, and a link
/// that leads back would never end.
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 100_000;

/// Names, sizes, modification times and inodes of everything in a folder, hidden files too: a copy in progress often
/// has a name with a dot. Contents are not read.
#[derive(Debug, Clone)]
pub(super) struct Fingerprint {
    whole: u64,
    /// The same of each folder in it, by name.
    below: BTreeMap<String, u64>,
    newest: SystemTime,
}

impl PartialEq for Fingerprint {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole && self.below == other.below
    }
}

impl Fingerprint {
    /// Looks at a folder; links are followed.
    ///
    /// # Errors
    /// The system's; a file that goes away meanwhile is one too.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let mut walk = Walk { files: 0, newest: UNIX_EPOCH };
        let mut below = BTreeMap::new();
        let mut hasher = DefaultHasher::new();
        walk.change(&std::fs::metadata(dir)?);
        for (name, path) in list(dir)? {
            let mut one = DefaultHasher::new();
            let folder = walk.look(&name, &path, 1, &mut one)?;
            let hash = one.finish();
            hash.hash(&mut hasher);
            if folder {
                below.insert(name, hash);
            }
        }
        Ok(Self { whole: hasher.finish(), below, newest: walk.newest })
    }

    /// The part of a folder in it.
    pub fn folder(&self, name: &str) -> Option<u64> {
        self.below.get(name).copied()
    }

    /// Whether the last change that the file system has recorded is at least that long ago. A clock that is off makes
    /// this false, never wrongly true by less than its error.
    pub fn at_rest(&self, time: Duration) -> bool {
        SystemTime::now().duration_since(self.newest).is_ok_and(|age| age >= time)
    }
}

struct Walk {
    files: usize,
    newest: SystemTime,
}

impl Walk {
    /// Hashes a file, or a folder and what is in it; whether it is a folder.
    fn look(
        &mut self,
        name: &str,
        path: &Path,
        depth: usize,
        hasher: &mut DefaultHasher,
    ) -> io::Result<bool> {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            let text = format!("more than {MAX_DEPTH} folders deep, or more than {MAX_FILES} files");
            return Err(io::Error::other(text));
        }
        // A link to nothing is a file that is not there yet.
        let status = std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path))?;
        self.change(&status);
        name.hash(hasher);
        (status.dev(), status.ino()).hash(hasher);
        if !status.is_dir() {
            (status.len(), status.mtime(), status.mtime_nsec()).hash(hasher);
            return Ok(false);
        }
        // A folder's own times change with files that come and go between two looks; its files are what counts.
        for (name, path) in list(path)? {
            self.look(&name, &path, depth + 1, hasher)?;
        }
        0u8.hash(hasher);
        Ok(true)
    }

    /// The time of the last change of anything, as the file system keeps it: no copy can set it back.
    fn change(&mut self, status: &std::fs::Metadata) {
        let seconds = u64::try_from(status.ctime()).unwrap_or(0);
        let nanos = u32::try_from(status.ctime_nsec()).unwrap_or(0);
        self.newest = self.newest.max(UNIX_EPOCH + Duration::new(seconds, nanos));
    }
}

/// Names and paths in a folder, sorted.
fn list(dir: &Path) -> io::Result<Vec<(String, std::path::PathBuf)>> {
    let mut list = std::fs::read_dir(dir)?
        .map(|entry| entry.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())))
        .collect::<io::Result<Vec<_>>>()?;
    list.sort();
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that is done to the folder.
    type Change = fn(&Path);

    #[test]
    fn every_change_shows_in_its_own_folder_and_no_other() {
        let write = |path: &Path, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let set = |path: &Path, seconds: u64| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        // Name, the change, whether the whole differs, whether version 1 does.
        let cases: [(&str, Change, bool, bool); 8] = [
            ("nothing", |_| {}, false, false),
            ("a byte more", |d| std::fs::write(d.join("1/model.onnx"), "abcd").unwrap(), true, true),
            (
                "a file that is replaced",
                |d| {
                    std::fs::write(d.join("new"), "abc").unwrap();
                    std::fs::File::options()
                        .write(true)
                        .open(d.join("new"))
                        .unwrap()
                        .set_modified(UNIX_EPOCH + Duration::from_secs(1000))
                        .unwrap();
                    std::fs::rename(d.join("new"), d.join("1/model.onnx")).unwrap();
                },
                true,
                true,
            ),
            ("a new version", |d| std::fs::create_dir(d.join("2")).unwrap(), true, false),
            ("a hidden file", |d| std::fs::write(d.join("1/.part"), "").unwrap(), true, true),
            ("settings", |d| std::fs::write(d.join("model.toml"), "#").unwrap(), true, false),
            ("a version that goes", |d| std::fs::remove_dir_all(d.join("1")).unwrap(), true, true),
            ("a version that moves", |d| std::fs::rename(d.join("1"), d.join("3")).unwrap(), true, true),
        ];
        for (name, change, whole, version) in cases {
            let dir = tempfile::tempdir().unwrap();
            write(&dir.path().join("1/model.onnx"), "abc");
            set(&dir.path().join("1/model.onnx"), 1000);
            let before = Fingerprint::of(dir.path()).unwrap();
            change(dir.path());
            let after = Fingerprint::of(dir.path()).unwrap();
            assert_eq!(before != after, whole, "{name}");
            assert_eq!(before.folder("1") != after.folder("1"), version, "{name}");
        }
    }

    #[test]
    fn rest_is_told_by_the_time_of_the_change_and_not_by_the_file_s_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.toml");
        std::fs::write(&path, "").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let print = Fingerprint::of(dir.path()).unwrap();
        assert!(print.at_rest(Duration::ZERO) && !print.at_rest(Duration::from_secs(3600)));
    }

    #[test]
    fn a_link_that_leads_back_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("again")).unwrap();
        assert!(Fingerprint::of(dir.path()).unwrap_err().to_string().contains("folders deep"));
        assert!(Fingerprint::of(&dir.path().join("nothing")).is_err());
    }
}
