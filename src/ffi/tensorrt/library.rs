//! Finding, opening and closing TensorRT.

use std::ffi::{CStr, CString, OsString, c_char};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tracing::Level;

use super::result::{Message, check};
use super::{Flavor, TensorRtError, Version, sys};

/// What is said of a library that is there and that visord was built without the headers of.
pub(crate) const NO_HEADERS: &str = "this visord was built without the headers of";

/// One library that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Its file or name.
    pub(crate) library: String,
    /// What it is, or why it cannot be used; in words.
    pub(crate) outcome: Result<String, String>,
}

/// An open TensorRT: its runtime, and its builder and ONNX parser where it has them.
pub(crate) struct Library {
    handle: NonNull<sys::Library>,
    api: &'static sys::Api,
    flavor: Flavor,
    version: Version,
    path: PathBuf,
    can_build: bool,
}

// SAFETY: the shim keeps no state in a library after `open` but function pointers; every build and every engine
// has its own TensorRT objects, and TensorRT allows those on different threads ("Thread Safety" in its developer
// guide). The logger, which all share, is stateless.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Probes libnvinfer.so.10, libnvinfer.so.11 and libtensorrt_rtx.so.1, in this order, with their ONNX parsers;
    /// in `dir`, or where the loader looks. The first that opens is taken, and nothing is probed after it.
    ///
    /// There is one finding for each library that was probed.
    pub(crate) fn find(dir: Option<&Path>) -> (Option<Arc<Self>>, Vec<Finding>) {
        let mut findings = Vec::new();
        for flavor in Flavor::ALL {
            let (runtime, parser) = flavor.sonames();
            let at = |name: &str| dir.map_or_else(|| PathBuf::from(name), |d| d.join(name));
            let (runtime, parser) = (at(runtime), at(parser));
            let opened = Self::open(flavor, &runtime, Some(&parser));
            let library = runtime.display().to_string();
            match opened {
                Ok((library_found, parser_fault)) => {
                    let mut says = format!("{} {}", flavor.product(), library_found.version);
                    if let Some(fault) = parser_fault {
                        says.push_str(&format!(
                            ", without its ONNX parser, so it cannot build plans: {fault}"
                        ));
                    } else if !library_found.can_build {
                        says.push_str(", a runtime without a builder: it cannot build plans");
                    }
                    findings.push(Finding { library, outcome: Ok(says) });
                    return (Some(Arc::new(library_found)), findings);
                }
                Err(TensorRtError::Open { why, .. }) => findings.push(Finding { library, outcome: Err(why) }),
                Err(
                    e @ (TensorRtError::NoDriver { .. }
                    | TensorRtError::Parse(_)
                    | TensorRtError::Call { .. }
                    | TensorRtError::Interface(_)
                    | TensorRtError::Unsupported(_)
                    | TensorRtError::Cancelled),
                ) => findings.push(Finding { library, outcome: Err(e.to_string()) }),
            }
        }
        (None, findings)
    }

    /// Opens one library, and says why its parser could not be opened, where it could not.
    ///
    /// **Errors:** [`TensorRtError::Open`] if it does not load, is no TensorRT or is another major, and
    /// [`TensorRtError::Unsupported`] if it is there but its headers are not compiled in.
    pub(super) fn open(
        flavor: Flavor,
        runtime: &Path,
        parser: Option<&Path>,
    ) -> Result<(Self, Option<String>), TensorRtError> {
        // The loader begins with the name that it was given, and so do our errors.
        let prefix = format!("{}: ", runtime.display());
        let open_error = |why: String| TensorRtError::Open {
            library: runtime.to_owned(),
            why: why.strip_prefix(&prefix).map(str::to_owned).unwrap_or(why),
        };
        let Some(api) = flavor.api() else {
            return Err(match loads(runtime) {
                Ok(()) => TensorRtError::Unsupported(format!(
                    "it is there, but {NO_HEADERS} {}: {}",
                    flavor.name(),
                    match flavor {
                        Flavor::TensorRt10 =>
                            "build it with TENSORRT_INCLUDE_DIR_10 set to a folder with them",
                        Flavor::TensorRt11 | Flavor::TensorRtRtx =>
                            "build it where cargo can fetch the package trtx-sys",
                    }
                )),
                Err(why) => open_error(why),
            });
        };
        let c_path = |path: &Path| {
            CString::new(path.as_os_str().as_bytes()).map_err(|_| open_error("NUL in its path".to_owned()))
        };
        let runtime_path = c_path(runtime)?;
        let parser_path = parser.map(c_path).transpose()?;
        let mut handle = std::ptr::null_mut();
        let (mut message, mut parser_message) = (Message::default(), Message::default());
        // SAFETY: the paths are NUL-terminated, `handle` and the messages outlive the call, and `log` may be
        // called from any thread at any time.
        let status = unsafe {
            (api.open)(
                runtime_path.as_ptr(),
                parser_path.as_ref().map_or(std::ptr::null(), |p| p.as_ptr()),
                log,
                &raw mut handle,
                parser_message.text(),
                message.text(),
            )
        };
        check(status, message).map_err(|e| {
            open_error(match e {
                TensorRtError::Open { why, .. } => why,
                other @ (TensorRtError::NoDriver { .. }
                | TensorRtError::Parse(_)
                | TensorRtError::Call { .. }
                | TensorRtError::Interface(_)
                | TensorRtError::Unsupported(_)
                | TensorRtError::Cancelled) => other.to_string(),
            })
        })?;
        let handle = NonNull::new(handle).ok_or_else(|| open_error("the shim gave no handle".to_owned()))?;
        // From here on dropping `library` closes it.
        let mut library = Self {
            handle,
            api,
            flavor,
            version: Version { major: 0, minor: 0, patch: 0, build: 0 },
            path: runtime.to_owned(),
            can_build: false,
        };
        // SAFETY: `handle` is open until `library` is dropped.
        let version = unsafe { (api.version)(handle.as_ptr()) };
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        library.version = Version {
            major: number(version.major),
            minor: number(version.minor),
            patch: number(version.patch),
            build: number(version.build),
        };
        // SAFETY: as above.
        let path = unsafe { (api.path)(handle.as_ptr()) };
        if !path.is_null() {
            // SAFETY: the loader's own text, which lives as long as the library is loaded.
            let path = unsafe { CStr::from_ptr(path) };
            library.path = OsString::from_vec(path.to_bytes().to_vec()).into();
        }
        // SAFETY: as above.
        library.can_build = unsafe { (api.can_build)(handle.as_ptr()) } != 0;
        let fault = (!parser_message.is_empty()).then(|| parser_message.into_string());
        Ok((library, fault))
    }

    /// Which TensorRT it is.
    pub(crate) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its own version; plans depend on it.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The file that was loaded.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has a builder and an ONNX parser; a lean runtime has neither.
    pub(crate) fn can_build(&self) -> bool {
        self.can_build
    }

    pub(super) fn api(&self) -> &'static sys::Api {
        self.api
    }

    pub(super) fn handle(&self) -> *mut sys::Library {
        self.handle.as_ptr()
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} at {}", self.flavor.product(), self.version, self.path.display())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is open, engines hold an `Arc` of `self`, and builds borrow it.
        unsafe { (self.api.close)(self.handle.as_ptr()) }
    }
}

/// Whether the loader finds and loads the library; it is closed again.
fn loads(library: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
    // SAFETY: NVIDIA's libraries run nothing but their own start-up code when they are loaded, as they would for
    // every program that links them; the operator names the folder.
    let opened = unsafe { Library::open(Some(library), RTLD_LAZY | RTLD_LOCAL) };
    opened.map(drop).map_err(|e| e.to_string())
}

/// Warnings that are logged as such. A build can give one for each layer, and the first ones tell.
const WARNINGS: u32 = 32;

/// The level of a line of TensorRT's log, after so many warnings. Its errors are warnings here: they come back as the
/// error of the call too, whose caller knows how much it matters. What it calls information is for debugging.
fn level(severity: i32, warned: u32) -> Level {
    match severity {
        ..=2 if warned < WARNINGS => Level::WARN,
        ..=3 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Receives TensorRT's log, on any thread.
extern "C" fn log(severity: i32, message: *const c_char) {
    static WARNED: AtomicU32 = AtomicU32::new(0);
    const TARGET: &str = "tensorrt";
    let warned = WARNED.load(Ordering::Relaxed);
    let level = level(severity, warned);
    let wanted = match level {
        Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
        Level::DEBUG => tracing::enabled!(target: TARGET, Level::DEBUG),
        _ => tracing::enabled!(target: TARGET, Level::TRACE),
    };
    if !wanted {
        return;
    }
    // SAFETY: TensorRT passes a NUL-terminated text that lives until this returns.
    let text = unsafe { super::result::string(message) };
    let text = text.trim_end();
    match level {
        Level::WARN => {
            WARNED.fetch_add(1, Ordering::Relaxed);
            let last = if warned + 1 == WARNINGS { " (later ones are logged at level debug)" } else { "" };
            tracing::warn!(target: TARGET, "{text}{last}");
        }
        Level::DEBUG => tracing::debug!(target: TARGET, "{text}"),
        _ => tracing::trace!(target: TARGET, "{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tensorrt_calls_information_is_for_debugging() {
        for (severity, warned, expected) in [
            (0, 0, Level::WARN),
            (1, 0, Level::WARN),
            (2, 31, Level::WARN),
            (2, 32, Level::DEBUG),
            (0, u32::MAX, Level::DEBUG),
            (3, 0, Level::DEBUG),
            (4, 0, Level::TRACE),
            (5, 0, Level::TRACE),
        ] {
            assert_eq!(level(severity, warned), expected, "severity {severity} after {warned}");
        }
    }
}
