//! Responses: status, headers, body, and each protocol's way of saying what went wrong.

use std::io::Write;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};

use crate::error::InferError;

/// What every handler answers with.
pub type Reply = Response<Full<Bytes>>;

/// `application/json`.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// `application/octet-stream`.
pub const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus' text exposition format.
pub const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A response with that body.
#[must_use]
pub fn reply(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// 200 with a JSON document.
#[must_use]
pub fn document(value: &impl serde::Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(StatusCode::OK, JSON, body),
        Err(e) => error(&InferError::new(crate::error::ErrorKind::Internal, e.to_string())),
    }
}

/// `{"error": "…"}` with the status of the error's kind, `Retry-After` where it has one.
#[must_use]
pub fn error(error: &InferError) -> Reply {
    let status = StatusCode::from_u16(error.kind.status().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    retry_after(reply(status, JSON, super::oip::error_body(error)), error)
}

/// Adds `Retry-After` where the error has one, in whole seconds, at least 1.
#[must_use]
pub fn retry_after(mut response: Reply, error: &InferError) -> Reply {
    if let Some(after) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, after.as_secs().max(1).into());
    }
    response
}

/// Adds the verbs that would have been right.
#[must_use]
pub fn allow(mut response: Reply, verbs: &'static str) -> Reply {
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(verbs));
    response
}

/// Compresses a body as the client's `Accept-Encoding` asks, gzip before deflate; at the fastest level, since
/// answers are small and time is what clients wait for.
#[must_use]
pub fn compress(headers: &HeaderMap, body: Bytes) -> (Bytes, Option<HeaderValue>) {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    let accepts = |name: &str| {
        accepted.split(',').any(|part| {
            let mut fields = part.split(';');
            let refused = |f: &str| f.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
            fields.next().is_some_and(|n| n.trim().eq_ignore_ascii_case(name)) && !fields.any(refused)
        })
    };
    let level = flate2::Compression::fast();
    let compressed = if accepts("gzip") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 2), level);
        encoder
            .write_all(&body)
            .and_then(|()| encoder.finish())
            .map(|b| (b, HeaderValue::from_static("gzip")))
    } else if accepts("deflate") {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::with_capacity(body.len() / 2), level);
        encoder
            .write_all(&body)
            .and_then(|()| encoder.finish())
            .map(|b| (b, HeaderValue::from_static("deflate")))
    } else {
        return (body, None);
    };
    // Writing into a Vec does not fail; an uncompressed answer would still be right.
    compressed.map_or((body, None), |(bytes, name)| (bytes.into(), Some(name)))
}

/// Sets `Content-Encoding` where there is one.
pub fn set_encoding(response: &mut Reply, encoding: Option<HeaderValue>) {
    if let Some(encoding) = encoding {
        response.headers_mut().insert(CONTENT_ENCODING, encoding);
    }
}
