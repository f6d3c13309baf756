//! Errors as gRPC shows them: a code and a sentence, with the reason and `retry-after` as trailing metadata.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::error::{ErrorKind, InferError};

/// Trailing metadata with the reason of `docs/errors.md`: several share a code.
pub static REASON: HeaderName = HeaderName::from_static("visord-reason");

/// Characters of a message; it travels in the trailers, for which clients commonly allow 8 KiB, percent-encoded.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// The status that says `error`.
#[must_use]
pub fn status(error: &InferError) -> Status {
    let facts = error.kind.status();
    let text = &error.message;
    let text = text.char_indices().nth(MAX_MESSAGE_CHARS).map_or(text.as_str(), |(end, _)| &text[..end]);
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(REASON.clone(), HeaderValue::from_static(facts.reason));
    if let Some(after) = error.retry_after {
        headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
    }
    Status::with_metadata(Code::from_i32(facts.grpc), text, MetadataMap::from_headers(headers))
}

/// The reason that [`status`] put into `headers`.
#[must_use]
pub fn reason(headers: &HeaderMap) -> Option<ErrorKind> {
    let reason = headers.get(&REASON)?;
    ErrorKind::ALL.into_iter().find(|kind| kind.status().reason == reason)
}

/// The reason of a status that was not made here but by the library below.
#[must_use]
pub fn reason_of(code: Code) -> ErrorKind {
    match code {
        Code::Cancelled => ErrorKind::Cancelled,
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::NotFound => ErrorKind::UnknownModel,
        Code::ResourceExhausted | Code::OutOfRange => ErrorKind::BodyTooLarge,
        Code::Unimplemented => ErrorKind::UnknownPath,
        Code::Unavailable => ErrorKind::NotReady,
        Code::Ok
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_reason_survives_the_way_out() {
        for kind in ErrorKind::ALL {
            let mut error = InferError::new(kind, "ä: no\nsuch thing");
            error.retry_after = Some(Duration::from_millis(1));
            let status = status(&error);
            assert_eq!(status.code() as i32, kind.status().grpc, "{kind:?}");
            let response = status.into_http::<tonic::body::Body>();
            assert_eq!(reason(response.headers()), Some(kind));
            assert_eq!(response.headers()["retry-after"], "1", "{kind:?}");
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let status = status(&InferError::new(ErrorKind::Internal, "ä".repeat(100_000)));
        assert_eq!(status.message().chars().count(), MAX_MESSAGE_CHARS);
    }
}
