//! The HTTP side of the PaddleServing pipeline protocol as pure functions: a body to a [`PaddleRequest`], a
//! request to images, tensors or an error to a body. What connects them to sockets is elsewhere.
//!
//! Sources: `python/pipeline` of PaddlePaddle/Serving (v0.6.3 and develop) and, for the JSON, grpc-gateway
//! v1.15 with golang/protobuf's `jsonpb`. What differs is in `docs/compatibility.md`.

mod request;
mod response;
#[cfg(test)]
mod tests;

pub use request::{Images, PaddleRequest, Text, parse};
pub use response::{Answer, Stage, write_gateway_error, write_json_string};

use crate::error::{ErrorKind, InferError};

/// Which PaddleServing to look like: the numbers and texts of errors differ, and `tensors` came with 0.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PaddleVersion {
    /// Up to 0.6.3, what the ArcFace example runs on: `err_no` from 0 to 9, no `tensors`.
    V06,
    /// From 0.8 on: `err_no` in thousands, `"tensors":[]`.
    #[default]
    V08,
}

/// `Content-Type` of every JSON answer.
pub const JSON: &str = "application/json";
/// `Content-Type` of [`METHOD_NOT_ALLOWED`] and [`NOT_FOUND`].
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Body of a 405, for any verb but POST.
pub const METHOD_NOT_ALLOWED: &str = "Method Not Allowed\n";
/// Body of a 404, for a path that is not `/{name}/{method}`.
pub const NOT_FOUND: &str = "Not Found\n";

/// What the gateway answers by itself, not with HTTP 200: [`write_gateway_error`] is its body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GatewayError {
    /// HTTP status code.
    pub http: u16,
    /// gRPC status code, in the body.
    pub code: i32,
    /// What is wrong, with line and column.
    pub message: String,
}

/// What a request for a service that is not there gets.
#[must_use]
pub fn no_service() -> InferError {
    InferError::new(ErrorKind::UnknownModel, "Failed to inference: Service name error.")
}
