//! Images from files and folders, within a bound of memory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Most files that are taken from one folder: each costs a body and a place in the table of answers.
const MAX_FILES: usize = 100_000;

/// The files that `paths` name, folders by name and not deeper, as `(path, bytes)`.
///
/// # Errors
/// A path that cannot be read, a folder without files, and more than `max_bytes` together.
pub fn load(paths: &[PathBuf], max_bytes: u64) -> Result<Vec<(PathBuf, Bytes)>, String> {
    let mut images = Vec::new();
    let mut left = max_bytes;
    for path in paths {
        for file in list(path)? {
            let bytes = read(&file, left).map_err(|e| format!("{}: {e}", file.display()))?;
            let Some(bytes) = bytes else {
                return Err(format!(
                    "{}: the images take more than --max-images-bytes {max_bytes}; raise it, or take fewer",
                    path.display()
                ));
            };
            left -= bytes.len() as u64;
            images.push((file, Bytes::from(bytes)));
        }
    }
    Ok(images)
}

/// The file itself, or the files of the folder in the order of their names.
fn list(path: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |e: std::io::Error| format!("{}: cannot be read: {e}", path.display());
    if !path.metadata().map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let hidden = file.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if !hidden && file.is_file() {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            return Err(format!("{}: more than {MAX_FILES} files", path.display()));
        }
    }
    if files.is_empty() {
        return Err(format!("{}: a folder without files", path.display()));
    }
    files.sort();
    Ok(files)
}

/// The file's bytes; `None` where it has more than `max_bytes`.
fn read(path: &Path, max_bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // A pipe or a device would never end.
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::other("is no file"));
    }
    File::open(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= max_bytes).then_some(bytes))
}

/// The content type of an image, by how it begins.
pub fn content_type(image: &[u8]) -> &'static str {
    const MAGIC: [(&[u8], &str); 7] = [
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"\x89PNG", "image/png"),
        (b"RIFF", "image/webp"),
        (b"GIF8", "image/gif"),
        (b"BM", "image/bmp"),
        (b"II*\0", "image/tiff"),
        (b"MM\0*", "image/tiff"),
    ];
    MAGIC
        .iter()
        .find(|(magic, _)| image.starts_with(magic))
        .map_or("application/octet-stream", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_by_name_and_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        for (name, size) in [("b.jpg", 3), ("a.jpg", 4), (".hidden", 100)] {
            std::fs::write(dir.path().join(name), vec![b'x'; size]).unwrap();
        }
        std::fs::create_dir(dir.path().join("deeper")).unwrap();
        let paths = [dir.path().to_owned()];
        let images = load(&paths, 7).unwrap();
        let names: Vec<_> = images.iter().map(|(p, b)| (p.file_name().unwrap(), b.len())).collect();
        assert_eq!(names, [("a.jpg".as_ref(), 4), ("b.jpg".as_ref(), 3)]);
        assert!(load(&paths, 6).unwrap_err().contains("--max-images-bytes 6"));
        for (path, word) in [("deeper", "without files"), ("nowhere", "cannot be read")] {
            let error = load(&[dir.path().join(path)], 7).unwrap_err();
            assert!(error.contains(word), "{path}: {error}");
        }
        assert!(load(&["/dev/zero".into()], 7).unwrap_err().contains("is no file"));
    }
}
