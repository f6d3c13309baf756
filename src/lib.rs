//! visord: an inference daemon for images. Modules in the order in which a request meets them.

pub mod error;
pub mod server;
pub mod tensor;
