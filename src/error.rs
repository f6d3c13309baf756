//! The one error that leaves the daemon, and the one table that says how each protocol shows it.

use std::time::Duration;

/// Why a request failed: a closed set, so that metrics, statuses and docs cannot drift apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The bytes are no image of a known kind.
    NotAnImage,
    /// The image ends before its data does.
    TruncatedImage,
    /// The image's bytes contradict its format.
    CorruptImage,
    /// The image has a zero side, or more pixels than `max_image_pixels`.
    ImageDimensions,
    /// A known kind of image that visord does not decode.
    UnsupportedImage,
    /// Text that is not base64.
    BadBase64,
    /// JSON that does not parse.
    MalformedJson,
    /// A protobuf message, or its frame, that does not parse.
    MalformedProtobuf,
    /// A multipart body that does not parse.
    MalformedMultipart,
    /// Binary tensor sizes that do not add up.
    BinarySize,
    /// A tensor of another datatype than the model's.
    WrongDatatype,
    /// A tensor of another shape than the model's.
    WrongShape,
    /// A missing, unknown or out-of-range field.
    InvalidArgument,
    /// No such model.
    UnknownModel,
    /// No such version of a known model.
    UnknownVersion,
    /// No such path.
    UnknownPath,
    /// The path exists, the verb does not.
    MethodNotAllowed,
    /// `Content-Type` that the endpoint does not read.
    UnsupportedMediaType,
    /// `Content-Encoding` that the server does not decode.
    UnsupportedEncoding,
    /// The compressed body does not inflate.
    CorruptEncoding,
    /// The body, as sent or inflated, is over `--max-body-bytes`.
    BodyTooLarge,
    /// The request head is over the header limit.
    HeadersTooLarge,
    /// The client sent its body too slowly.
    SlowClient,
    /// The model's queue is full.
    QueueFull,
    /// The bodies in flight fill `--max-inflight-bytes`.
    Overloaded,
    /// Loading and unloading are not for requests here (`--model-control-mode`).
    ControlMode,
    /// The operator has not allowed this to requests.
    Forbidden,
    /// The model could not be loaded; what served before still does.
    LoadFailed,
    /// The method exists in the protocol and not here.
    Unimplemented,
    /// No such region of shared memory.
    UnknownRegion,
    /// The model is known and not (yet) ready.
    NotReady,
    /// The server is shutting down.
    Draining,
    /// The deadline passed before the answer was there.
    DeadlineExceeded,
    /// The client went away first.
    Cancelled,
    /// An output of the model is not a number.
    NanOutput,
    /// The engine failed.
    Backend,
    /// Something of ours failed.
    Internal,
}

/// How one [`ErrorKind`] looks in every protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub http: u16,
    /// gRPC status code.
    pub grpc: i32,
    /// PaddleServing `err_no` from 0.8 on.
    pub paddle: i32,
    /// PaddleServing `err_no` up to 0.6.3.
    pub paddle_06: i32,
    /// The `reason` label in metrics.
    pub reason: &'static str,
}

impl ErrorKind {
    /// Every kind, for metrics that must exist at zero and for tests over the table.
    pub const ALL: [ErrorKind; 37] = {
        use ErrorKind as E;
        [
            E::NotAnImage,
            E::TruncatedImage,
            E::CorruptImage,
            E::ImageDimensions,
            E::UnsupportedImage,
            E::BadBase64,
            E::MalformedJson,
            E::MalformedProtobuf,
            E::MalformedMultipart,
            E::BinarySize,
            E::WrongDatatype,
            E::WrongShape,
            E::InvalidArgument,
            E::UnknownModel,
            E::UnknownVersion,
            E::UnknownPath,
            E::MethodNotAllowed,
            E::UnsupportedMediaType,
            E::UnsupportedEncoding,
            E::CorruptEncoding,
            E::BodyTooLarge,
            E::HeadersTooLarge,
            E::SlowClient,
            E::QueueFull,
            E::Overloaded,
            E::ControlMode,
            E::Forbidden,
            E::LoadFailed,
            E::Unimplemented,
            E::UnknownRegion,
            E::NotReady,
            E::Draining,
            E::DeadlineExceeded,
            E::Cancelled,
            E::NanOutput,
            E::Backend,
            E::Internal,
        ]
    };

    /// The one status table.
    ///
    /// PaddleServing numbers: 0.6.3 `channel.py` and 0.8 `error_catch.py` of PaddlePaddle/Serving. gRPC
    /// numbers: the gRPC status code registry.
    #[must_use]
    pub const fn status(self) -> Status {
        const fn s(http: u16, grpc: i32, paddle: i32, paddle_06: i32, reason: &'static str) -> Status {
            Status { http, grpc, paddle, paddle_06, reason }
        }
        match self {
            Self::NotAnImage => s(400, 3, 10000, 8, "not_an_image"),
            Self::TruncatedImage => s(400, 3, 10000, 8, "truncated_image"),
            Self::CorruptImage => s(400, 3, 10000, 8, "corrupt_image"),
            Self::ImageDimensions => s(400, 3, 10000, 8, "image_dimensions"),
            Self::UnsupportedImage => s(400, 3, 10000, 8, "unsupported_image"),
            Self::BadBase64 => s(400, 3, 10000, 8, "bad_base64"),
            Self::MalformedJson => s(400, 3, 8000, 4, "malformed_json"),
            Self::MalformedProtobuf => s(400, 3, 8000, 4, "malformed_protobuf"),
            Self::MalformedMultipart => s(400, 3, 8000, 4, "malformed_multipart"),
            Self::BinarySize => s(400, 3, 8000, 4, "binary_size"),
            Self::WrongDatatype => s(400, 3, 7000, 3, "wrong_datatype"),
            Self::WrongShape => s(400, 3, 5000, 8, "wrong_shape"),
            Self::InvalidArgument => s(400, 3, 10000, 8, "invalid_argument"),
            Self::UnknownModel => s(404, 5, 3002, 7, "unknown_model"),
            Self::UnknownVersion => s(404, 5, 3002, 7, "unknown_version"),
            Self::UnknownPath => s(404, 12, 3002, 7, "unknown_path"),
            Self::MethodNotAllowed => s(405, 12, 3000, 2, "method_not_allowed"),
            Self::UnsupportedMediaType => s(415, 3, 8000, 4, "unsupported_media_type"),
            Self::UnsupportedEncoding => s(415, 12, 8000, 4, "unsupported_encoding"),
            Self::CorruptEncoding => s(400, 3, 8000, 4, "corrupt_encoding"),
            Self::BodyTooLarge => s(413, 8, 8000, 4, "body_too_large"),
            Self::HeadersTooLarge => s(431, 8, 8000, 4, "headers_too_large"),
            Self::SlowClient => s(408, 4, 6000, 1, "slow_client"),
            Self::QueueFull => s(429, 8, 9000, 5, "queue_full"),
            Self::Overloaded => s(503, 14, 9000, 5, "overloaded"),
            Self::ControlMode => s(503, 14, 3000, 2, "control_mode"),
            Self::Forbidden => s(403, 7, 3000, 2, "forbidden"),
            Self::LoadFailed => s(400, 3, 10000, 8, "load_failed"),
            Self::Unimplemented => s(501, 12, 3000, 2, "unimplemented"),
            Self::UnknownRegion => s(404, 5, 10000, 8, "unknown_region"),
            Self::NotReady => s(503, 14, 3001, 6, "not_ready"),
            Self::Draining => s(503, 14, 3001, 6, "draining"),
            Self::DeadlineExceeded => s(504, 4, 6000, 5, "deadline_exceeded"),
            Self::Cancelled => s(499, 1, 9000, 5, "cancelled"),
            Self::NanOutput => s(500, 13, 10000, 5, "nan_output"),
            Self::Backend => s(500, 13, 10000, 5, "backend"),
            Self::Internal => s(500, 13, 10000, 8, "internal"),
        }
    }
}

/// An answer that is an error: what happened, in a sentence that names the field and the limit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct InferError {
    /// The reason, which decides the status in every protocol.
    pub kind: ErrorKind,
    /// For the client: names the field, what was expected and what was got.
    pub message: String,
    /// When to try again, where trying again can help.
    pub retry_after: Option<Duration>,
}

impl InferError {
    /// An error with no advice on when to retry.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// The same error with what it is about in front, e.g. `image 2: …`.
    #[must_use]
    pub fn context(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

/// At most 100 characters of a client's text, for an error message.
#[must_use]
pub fn shorten(text: &str) -> &str {
    text.char_indices().nth(100).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct_and_statuses_are_errors() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            let status = kind.status();
            assert!(seen.insert(status.reason), "{kind:?} shares its reason");
            assert!((400..600).contains(&status.http), "{kind:?}");
            assert!((1..=16).contains(&status.grpc), "{kind:?}");
            assert!(status.paddle >= 50 && (1..=9).contains(&status.paddle_06), "{kind:?}");
        }
        assert_eq!(seen.len(), ErrorKind::Internal as usize + 1, "ALL misses a kind");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(shorten("ä"), "ä");
        assert_eq!(shorten(&"ä".repeat(300)), "ä".repeat(100));
    }
}
