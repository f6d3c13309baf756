//! visord: an inference daemon for images. Modules in the order in which a request meets them.

pub mod error;
#[allow(unsafe_code, reason = "the only module that calls C libraries; every block says why it is sound")]
mod ffi;
pub mod image;
pub mod tensor;
