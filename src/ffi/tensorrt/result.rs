//! The shim's calls with their code as a `Result`.

use std::ffi::{CStr, c_char, c_void};
use std::fmt::Write as _;
use std::path::PathBuf;

use super::sys;

/// A call into TensorRT that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TensorRtError {
    /// A library that cannot be loaded, or is not the one wanted.
    #[error("{}: {why}", .library.display())]
    Open {
        /// The file, or the name that the loader was given.
        library: PathBuf,
        /// The loader's words, or what is wrong with it.
        why: String,
    },
    /// The library is there, the CUDA driver or device is not.
    #[error("{call}: TensorRT finds no usable CUDA driver or GPU: {message}")]
    NoDriver {
        /// TensorRT's function.
        call: &'static str,
        /// TensorRT's words.
        message: String,
    },
    /// The ONNX parser refuses the model.
    #[error("TensorRT cannot read the ONNX model{}", list(.0))]
    Parse(Vec<ParserError>),
    /// Any other call that failed.
    #[error("{call}: {message}")]
    Call {
        /// TensorRT's function.
        call: &'static str,
        /// TensorRT's words.
        message: String,
    },
    /// The model's or the plan's inputs and outputs are not what was asked for.
    #[error("{0}")]
    Interface(String),
    /// This TensorRT does not have what was asked for.
    #[error("{0}")]
    Unsupported(String),
    /// The monitor stopped the build.
    #[error("the build was cancelled")]
    Cancelled,
}

/// One complaint of the ONNX parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParserError {
    /// `nvonnxparser::ErrorCode`; 0 for what the parser only logs.
    pub(crate) code: i32,
    /// The node's index in the graph; `None` where the error is not one node's.
    pub(crate) node: Option<u32>,
    /// The node's name, often empty.
    pub(crate) name: String,
    /// The node's operator, e.g. `Einsum`.
    pub(crate) operator: String,
    /// The parser's words.
    pub(crate) description: String,
}

/// Complaints that a text shows: one missing operator may be in every block of a network.
const SHOWN: usize = 8;

fn list(errors: &[ParserError]) -> String {
    let mut text = String::new();
    for error in errors.iter().take(SHOWN) {
        let _ = write!(text, "\n  {error}");
    }
    if errors.len() > SHOWN {
        let _ = write!(text, "\n  and {} more", errors.len() - SHOWN);
    }
    text
}

impl std::fmt::Display for ParserError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.node {
            Some(node) => write!(f, "node {node}")?,
            None => f.write_str("the model")?,
        }
        if !self.name.is_empty() {
            write!(f, " \"{}\"", self.name)?;
        }
        if !self.operator.is_empty() {
            write!(f, ", operator {}", self.operator)?;
        }
        write!(f, ": {}; {}", self.description, self.advice())
    }
}

impl ParserError {
    /// What to do, by `nvonnxparser::ErrorCode`.
    fn advice(&self) -> &'static str {
        match self.code {
            0 if self.description.contains("open file") => "put the model's external data beside it",
            0 => "see the errors before it",
            2 => "free memory on this machine",
            3 => "the file is damaged or no ONNX model: export or copy it again",
            4 | 5 => "check the model with onnx.checker and export it again",
            6 | 8 => "TensorRT has no such operator: export the model with others, or use another backend",
            7 | 9..=13 => "export the model without this use of the operator, or use another backend",
            _ => "run with --log-level tensorrt=debug for TensorRT's own messages",
        }
    }
}

/// Receives the text of a failed call. On success nothing is allocated.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// What the shim writes to; valid while `self` is neither moved nor dropped.
    pub(super) fn text(&mut self) -> sys::Text {
        sys::Text { user: std::ptr::from_mut(self).cast(), put }
    }

    pub(super) fn into_string(self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        text.trim().to_owned()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

extern "C" fn put(user: *mut c_void, text: *const c_char, length: usize) {
    // SAFETY: `user` is the `Message` of the call that is under way on this thread (`Message::text`).
    let message = unsafe { &mut *user.cast::<Message>() };
    // SAFETY: the shim passes a buffer of that length that lives until this returns.
    let text = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    message.0.extend_from_slice(text);
}

/// A text of the shim or of TensorRT; empty for a null pointer.
///
/// # Safety
///
/// `text` is null or NUL-terminated, and lives until this returns.
pub(super) unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null; the caller promises the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The table that the shim exports for one header set.
pub(super) fn table(export: unsafe extern "C" fn() -> *const sys::Api) -> &'static sys::Api {
    // SAFETY: the functions of `sys` have no precondition.
    let table = unsafe { export() };
    // SAFETY: the shim returns the address of a constant whose every field is set (the end of shim.cpp).
    unsafe { &*table }
}

/// An error for any code but `OK`.
pub(super) fn check(status: sys::Status, message: Message) -> Result<(), TensorRtError> {
    if status.code == sys::OK {
        return Ok(());
    }
    let call = if status.call.is_null() {
        "TensorRT"
    } else {
        // SAFETY: the shim names calls by string literals only, which live as long as the program.
        unsafe { CStr::from_ptr(status.call) }.to_str().unwrap_or("TensorRT")
    };
    let mut message = message.into_string();
    if message.is_empty() {
        message.push_str("no message");
    }
    Err(match status.code {
        sys::NO_DRIVER => TensorRtError::NoDriver { call, message },
        sys::OPEN => TensorRtError::Open { library: PathBuf::new(), why: message },
        sys::PARSE => TensorRtError::Parse(Vec::new()),
        sys::INTERFACE => TensorRtError::Interface(message),
        sys::UNSUPPORTED => TensorRtError::Unsupported(message),
        sys::CANCELLED => TensorRtError::Cancelled,
        _ => TensorRtError::Call { call, message },
    })
}
