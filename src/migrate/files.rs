//! Files that are to be written: all or, where one is there already, none.

use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file is to hold.
#[derive(Debug)]
pub enum Content {
    /// This text.
    Text(String),
    /// What another file holds.
    CopyOf(PathBuf),
}

/// A file to be written.
#[derive(Debug)]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// What.
    pub content: Content,
}

/// Writes all of them, each whole or not at all, with the folders that they need. Files that hold the same already are
/// left alone.
///
/// # Errors
/// A sentence for each file that is there and holds something else, unless `force`; nothing is written then. One for what
/// cannot be written.
pub fn write_all(outputs: &[Output], force: bool) -> Result<(), Vec<String>> {
    let differs = |o: &&Output| o.path.symlink_metadata().is_ok() && !same(o);
    let taken: Vec<&Output> = outputs.iter().filter(differs).collect();
    if !force && !taken.is_empty() {
        return Err(taken
            .iter()
            .map(|o| format!("{} is there; --force replaces it", o.path.display()))
            .collect());
    }
    for output in outputs {
        write(output).map_err(|e| vec![format!("{} cannot be written: {e}", output.path.display())])?;
    }
    Ok(())
}

fn write(output: &Output) -> std::io::Result<()> {
    if same(output) {
        return Ok(());
    }
    if let Some(folder) = output.path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut part = output.path.clone().into_os_string();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let written = match &output.content {
        Content::Text(text) => std::fs::write(&part, text),
        Content::CopyOf(from) => std::fs::copy(from, &part).map(|_| ()),
    };
    let written = written.and_then(|()| std::fs::rename(&part, &output.path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Whether the file is there with that content.
fn same(output: &Output) -> bool {
    let path = &output.path;
    if !path.symlink_metadata().is_ok_and(|m| m.is_file()) {
        return false;
    }
    match &output.content {
        Content::Text(text) => std::fs::read(path).is_ok_and(|t| t == text.as_bytes()),
        Content::CopyOf(from) => same_bytes(path, from).unwrap_or(false),
    }
}

fn same_bytes(a: &Path, b: &Path) -> std::io::Result<bool> {
    let (mut a, mut b) = (std::fs::File::open(a)?, std::fs::File::open(b)?);
    let size = a.metadata()?.len();
    if size != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut rest = size;
    while rest > 0 {
        let n = usize::try_from(rest).unwrap_or(usize::MAX).min(left.len());
        a.read_exact(&mut left[..n])?;
        b.read_exact(&mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        rest -= n as u64;
    }
    Ok(true)
}
