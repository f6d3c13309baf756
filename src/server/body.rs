//! Request bodies: bounded before they are read, inflated within the same bound, on time or not at all.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderName};

use super::state::{Reservation, ServerState};
use crate::error::{ErrorKind, InferError, shorten};

/// Step in which a body of unknown length reserves memory.
const STEP_BYTES: usize = 64 * 1024;
/// Bodies from this size on are inflated and parsed where the network threads may be joined by another, so
/// that one large request does not hold up small ones.
pub const LARGE_BYTES: usize = 1024 * 1024;

/// A body in memory, and its part of the budget.
#[derive(Debug)]
pub struct Collected {
    /// The body, inflated.
    pub bytes: Bytes,
    /// Its bytes as sent.
    pub sent: usize,
    _reservation: Reservation,
}

/// Reads a whole body.
///
/// # Errors
/// `BodyTooLarge`, `SlowClient`, `Overloaded`, `UnsupportedEncoding`, `CorruptEncoding`, or `Cancelled` when the
/// client's connection breaks.
pub async fn collect(
    state: &ServerState,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Collected, InferError> {
    let encoding = Encoding::of(headers, &CONTENT_ENCODING)?;
    let limit = state.limits.max_body_bytes;
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|n| n > limit) {
        return Err(too_large(limit));
    }
    let timeout = state.limits.request_read_timeout;
    let read = read(state, body, announced, limit);
    let (bytes, mut reservation) = tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| {
        let text =
            format!("the body did not arrive within --request-read-timeout-secs {}", timeout.as_secs());
        Err(InferError::new(ErrorKind::SlowClient, text))
    })?;
    let sent = bytes.len();
    let bytes = encoding.inflate("the body", bytes, limit, &mut reservation)?;
    Ok(Collected { bytes, sent, _reservation: reservation })
}

/// Runs CPU work on `bytes` bytes without starving the other connections of this thread.
pub fn in_place<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    if bytes >= LARGE_BYTES { tokio::task::block_in_place(work) } else { work() }
}

async fn read(
    state: &ServerState,
    mut body: Incoming,
    announced: Option<usize>,
    limit: usize,
) -> Result<(Bytes, Reservation), InferError> {
    let mut reservation = state.budget.reserve(announced.unwrap_or(0))?;
    let mut reserved = announced.unwrap_or(0);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| {
            InferError::new(
                ErrorKind::Cancelled,
                format!("the connection broke while the body was read: {e}"),
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        let size = whole.len() + data.len();
        if size > limit {
            return Err(too_large(limit));
        }
        if size > reserved {
            let more = (size - reserved).next_multiple_of(STEP_BYTES);
            reservation.grow(more)?;
            reserved += more;
        }
        // A body that came in one piece is used where it lies.
        if whole.is_empty() && body.is_end_stream() {
            return Ok((data, reservation));
        }
        if whole.is_empty() {
            whole.reserve(announced.unwrap_or(STEP_BYTES));
        }
        whole.extend_from_slice(&data);
    }
    Ok((whole.freeze(), reservation))
}

/// A body of more than `limit` bytes.
pub fn too_large(limit: usize) -> InferError {
    InferError::new(ErrorKind::BodyTooLarge, format!("the body is over --max-body-bytes {limit}"))
}

fn inflate(
    what: &str,
    mut from: impl Read,
    limit: usize,
    reservation: &mut Reservation,
) -> Result<Bytes, InferError> {
    let mut out = Vec::new();
    loop {
        let start = out.len();
        reservation.grow(STEP_BYTES)?;
        out.resize(start + STEP_BYTES, 0);
        let n = from.read(&mut out[start..]).map_err(|e| {
            InferError::new(ErrorKind::CorruptEncoding, format!("{what} does not inflate: {e}"))
        })?;
        out.truncate(start + n);
        if out.len() > limit {
            return Err(InferError::new(
                ErrorKind::BodyTooLarge,
                format!("{what} inflates to more than --max-body-bytes {limit}"),
            ));
        }
        if n == 0 {
            return Ok(out.into());
        }
    }
}

/// How a body, or a message of gRPC, is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Deflate,
}

impl Encoding {
    /// What the header `name` says.
    ///
    /// # Errors
    /// `UnsupportedEncoding`.
    pub fn of(headers: &HeaderMap, name: &HeaderName) -> Result<Self, InferError> {
        let Some(value) = headers.get(name) else { return Ok(Self::Identity) };
        let value = value.to_str().unwrap_or("?").trim();
        match value.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            _ => Err(InferError::new(
                ErrorKind::UnsupportedEncoding,
                format!("{name}: \"{}\" is not read; send gzip, deflate or identity", shorten(value)),
            )),
        }
    }

    /// Inflates `bytes`, which errors call `what`, to at most `limit`; what is held more is reserved.
    ///
    /// # Errors
    /// `CorruptEncoding`, `BodyTooLarge`, `Overloaded`.
    pub fn inflate(
        self,
        what: &str,
        bytes: Bytes,
        limit: usize,
        reservation: &mut Reservation,
    ) -> Result<Bytes, InferError> {
        if self == Self::Identity {
            return Ok(bytes);
        }
        in_place(bytes.len(), || match self {
            Self::Identity => Ok(bytes),
            Self::Gzip => inflate(
                &format!("gzip: {what}"),
                flate2::read::MultiGzDecoder::new(&bytes[..]),
                limit,
                reservation,
            ),
            Self::Deflate => inflate(
                &format!("deflate: {what}"),
                flate2::read::ZlibDecoder::new(&bytes[..]),
                limit,
                reservation,
            ),
        })
    }
}
