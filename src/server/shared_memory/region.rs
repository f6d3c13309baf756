//! One region: a part of a shared memory object, which is a file below `/dev/shm`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;

use crate::error::{ErrorKind, InferError, shorten};
use crate::server::oip::Place;

/// Where Linux keeps POSIX shared memory objects (shm_overview(7)).
const FOLDER: &str = "/dev/shm";
/// Bytes of an object's name (NAME_MAX).
const MAX_KEY_BYTES: usize = 255;

/// A part of a shared memory object that was as long as it said when it was registered.
#[derive(Debug)]
pub struct Region {
    /// The object's name, as the client gave it.
    pub key: String,
    /// Where the region begins in the object, bytes.
    pub offset: u64,
    /// Its size, bytes.
    pub byte_size: u64,
    file: File,
}

impl Region {
    /// Opens `byte_size` bytes from `offset` of the object `key`.
    ///
    /// # Errors
    /// `InvalidArgument` for a key that leads elsewhere, is no object, cannot be opened, or is too short.
    pub fn open(key: &str, offset: u64, byte_size: u64) -> Result<Self, InferError> {
        let shown = shorten(key).escape_debug().to_string();
        let refuse =
            |why: String| InferError::new(ErrorKind::InvalidArgument, format!("key `{shown}`: {why}"));
        // shm_open(3): one slash in front, which many leave out, and none behind it.
        let name = key.strip_prefix('/').unwrap_or(key);
        let good = (1..=MAX_KEY_BYTES).contains(&name.len())
            && !matches!(name, "." | "..")
            && !name.bytes().any(|b| b == b'/' || b.is_ascii_control());
        if !good {
            let why = format!(
                "must be the name of a shared memory object: 1 to {MAX_KEY_BYTES} bytes, no further `/`"
            );
            return Err(refuse(why));
        }
        if byte_size == 0 {
            return Err(InferError::new(ErrorKind::InvalidArgument, "byte_size: must be at least 1, got 0"));
        }
        // A link would lead out of the folder; a pipe would block.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(Path::new(FOLDER).join(name))
            .map_err(|e| refuse(format!("cannot be opened for reading and writing: {e}")))?;
        let facts = file.metadata().map_err(|e| refuse(format!("cannot be looked at: {e}")))?;
        if !facts.is_file() {
            return Err(refuse("is no shared memory object".to_owned()));
        }
        if offset.checked_add(byte_size).is_none_or(|end| end > facts.len()) {
            let why =
                format!("has {} bytes; offset {offset} and byte_size {byte_size} go beyond", facts.len());
            return Err(refuse(why));
        }
        Ok(Self { key: key.to_owned(), offset, byte_size, file })
    }

    /// The bytes of a place that lies in the region, which may have shrunk since it was registered.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn within(&self, place: &Place) -> Result<usize, InferError> {
        let Place { region, offset, byte_size } = place;
        let end = offset.checked_add(*byte_size).filter(|end| *end <= self.byte_size);
        let Some(end) = end else {
            let text = format!(
                "`shared_memory_offset` {offset} and `shared_memory_byte_size` {byte_size} go beyond the {} bytes of \
                 region `{}`",
                self.byte_size,
                shorten(region)
            );
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        };
        let length = self.file.metadata().map_err(|e| failed(region, &e))?.len();
        if self.offset + end > length {
            return Err(shrunk(region));
        }
        usize::try_from(*byte_size).map_err(|_| shrunk(region))
    }

    /// Copies `size` bytes of a place that is [`Self::within`].
    ///
    /// # Errors
    /// `InvalidArgument` where the region shrinks meanwhile.
    pub fn read(&self, place: &Place, size: usize) -> Result<Bytes, InferError> {
        let mut data = vec![0; size];
        match self.file.read_exact_at(&mut data, self.offset + place.offset) {
            Ok(()) => Ok(data.into()),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(shrunk(&place.region)),
            Err(e) => Err(failed(&place.region, &e)),
        }
    }

    /// Writes `data`, which is no longer than the place.
    ///
    /// # Errors
    /// `InvalidArgument` where the region has shrunk. One that shrinks in the very moment grows again by what is
    /// written, which harms nobody.
    pub fn write(&self, place: &Place, data: &[u8]) -> Result<(), InferError> {
        self.within(place)?;
        self.file.write_all_at(data, self.offset + place.offset).map_err(|e| failed(&place.region, &e))
    }
}

fn shrunk(region: &str) -> InferError {
    let text =
        format!("region `{}` has become shorter than it was registered; register it anew", shorten(region));
    InferError::new(ErrorKind::InvalidArgument, text)
}

fn failed(region: &str, error: &io::Error) -> InferError {
    InferError::new(ErrorKind::InvalidArgument, format!("region `{}`: {error}", shorten(region)))
}
