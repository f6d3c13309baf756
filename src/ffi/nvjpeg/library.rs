//! Opening libnvjpeg, and what can go wrong with it and with its calls.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sys;

/// Names to try, in this order. 12 first: it runs on every driver that visord asks for and on every GPU from the
/// V100 on. 13 needs a driver of CUDA 13 (580) and no longer knows the V100, but may be all that a new system
/// has. 11 last: it cannot interpolate chroma.
const SONAMES: [&str; 3] = ["libnvjpeg.so.12", "libnvjpeg.so.13", "libnvjpeg.so.11"];

/// Why libnvjpeg could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// None of the names could be loaded.
    #[error(
        "cannot open nvJPEG: {}. Install CUDA's nvJPEG 12 (libnvjpeg.so.12), or name the folder that has it",
        .tried.join("; ")
    )]
    NotFound {
        /// What the loader said of each name.
        tried: Vec<String>,
    },
    /// The library lacks a function that visord calls.
    #[error("{library} has no function {symbol}: it is no nvJPEG of 11.9 or newer")]
    MissingSymbol {
        /// The file, as it was opened.
        library: String,
        /// The function.
        symbol: &'static str,
    },
    /// The library does not tell its version.
    #[error("{library}: {source}")]
    Version {
        /// The file, as it was opened.
        library: String,
        /// The call that failed.
        source: NvjpegError,
    },
}

/// A call to nvJPEG that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with status {code} ({})", self.name())]
pub struct NvjpegError {
    /// The function that failed.
    pub call: &'static str,
    /// Its `nvjpegStatus_t`.
    pub code: i32,
}

impl NvjpegError {
    /// The status in NVIDIA's words.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.code {
            1 => "NOT_INITIALIZED",
            2 => "INVALID_PARAMETER",
            3 => "BAD_JPEG",
            4 => "JPEG_NOT_SUPPORTED",
            5 => "ALLOCATOR_FAILURE",
            6 => "EXECUTION_FAILED",
            7 => "ARCH_MISMATCH",
            8 => "INTERNAL_ERROR",
            9 => "IMPLEMENTATION_NOT_SUPPORTED",
            10 => "INCOMPLETE_BITSTREAM",
            _ => "a status that visord does not know",
        }
    }

    /// Whether the status speaks of the picture: `BAD_JPEG`, `JPEG_NOT_SUPPORTED`,
    /// `IMPLEMENTATION_NOT_SUPPORTED`, `INCOMPLETE_BITSTREAM`. Every other one is the device's, the library's or
    /// ours.
    #[must_use]
    pub const fn blames_picture(&self) -> bool {
        matches!(self.code, 3 | 4 | 9 | 10)
    }

    /// Whether the status is that of a GPU without a JPEG engine (a V100, a T4): `ARCH_MISMATCH`, or
    /// `IMPLEMENTATION_NOT_SUPPORTED`.
    #[must_use]
    pub const fn means_no_engine(&self) -> bool {
        matches!(self.code, 7 | 9)
    }
}

/// Major, minor and patch number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// An open libnvjpeg. It stays in the process until that ends: the CUDA runtime inside it must not be unloaded
/// while a driver thread may still call it.
pub struct Library {
    path: String,
    version: Version,
    cuda_runtime: Version,
    pub(super) functions: sys::Functions,
    _opened: ManuallyDrop<libloading::Library>,
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("path", &self.path).field("version", &self.version).finish()
    }
}

impl Library {
    /// Opens libnvjpeg 12, 13 or 11 in `dir`, or where the dynamic loader looks. Needs no GPU.
    ///
    /// **Errors:** [`LoadError`]; a library that lacks a function is an error, not a reason to go on with the
    /// next name.
    pub fn open(dir: Option<&Path>) -> Result<Arc<Self>, LoadError> {
        let mut tried = Vec::new();
        for soname in SONAMES {
            let path = dir.map_or_else(|| PathBuf::from(soname), |d| d.join(soname));
            // SAFETY: the library's constructors are those of nvJPEG and of the CUDA runtime in it, which only
            // register themselves; a file of another kind in its place is the operator's choice.
            match unsafe { libloading::Library::new(&path) } {
                Ok(opened) => return Self::resolve(path.display().to_string(), opened).map(Arc::new),
                Err(e) => tried.push(e.to_string()),
            }
        }
        Err(LoadError::NotFound { tried })
    }

    fn resolve(path: String, opened: libloading::Library) -> Result<Self, LoadError> {
        let opened = ManuallyDrop::new(opened);
        let mut addresses = [std::ptr::null::<c_void>(); sys::SYMBOLS.len()];
        for (address, &(symbol, required)) in addresses.iter_mut().zip(sys::SYMBOLS) {
            // SAFETY: the symbol is taken as a bare address, which any symbol has.
            let found = unsafe { opened.get::<*const c_void>(symbol.as_bytes()) };
            *address = found.map_or(std::ptr::null(), |symbol| *symbol);
            if required && address.is_null() {
                return Err(LoadError::MissingSymbol { library: path, symbol });
            }
        }
        // SAFETY: `Functions` is `repr(C)` and has one function pointer for each of `SYMBOLS`, in the same order
        // (one macro writes both), so these are the addresses of those very functions. Null is left only where
        // the field is an `Option`, whose `None` it is.
        let functions = unsafe { std::mem::transmute::<[_; sys::SYMBOLS.len()], sys::Functions>(addresses) };
        let property = |call, function: unsafe extern "C" fn(c_int, *mut c_int) -> sys::Status| {
            let mut numbers = [0; 3];
            let kinds = [sys::MAJOR_VERSION, sys::MINOR_VERSION, sys::PATCH_LEVEL];
            for (number, kind) in numbers.iter_mut().zip(kinds) {
                let mut value: c_int = 0;
                // SAFETY: `value` is a writable int, and the function keeps no pointer to it.
                let code = unsafe { function(kind, &raw mut value) };
                if code != sys::STATUS_SUCCESS {
                    let source = NvjpegError { call, code };
                    return Err(LoadError::Version { library: path.clone(), source });
                }
                *number = u32::try_from(value).unwrap_or(0);
            }
            Ok(Version(numbers[0], numbers[1], numbers[2]))
        };
        let version = property("nvjpegGetProperty", functions.nvjpegGetProperty)?;
        let cuda_runtime = property("nvjpegGetCudartProperty", functions.nvjpegGetCudartProperty)?;
        Ok(Self { path, version, cuda_runtime, functions, _opened: opened })
    }

    /// The file, as it was opened: a bare name where the dynamic loader chose.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// nvJPEG's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Version of the CUDA runtime that the library was built with.
    #[must_use]
    pub fn cuda_runtime(&self) -> Version {
        self.cuda_runtime
    }

    /// Whether `nvjpegCreateEx` knows the flag for interpolated chroma: 12.1 has it, 12.0 and 11.9 do not.
    #[must_use]
    pub fn interpolates_chroma(&self) -> bool {
        self.version >= Version(12, 1, 0)
    }
}
