//! What a call carries from its head to its handler: when it came, when it must be answered, and the memory that its
//! messages hold.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::HeaderMap;
use hyper::header::HeaderName;

use crate::error::{ErrorKind, InferError, shorten};
use crate::server::shared_memory::Peer;
use crate::server::state::Reservation;
use crate::telemetry::context::Context;

static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// One call.
#[derive(Debug)]
pub struct Call {
    /// What follows it.
    pub context: Context,
    /// When nobody waits for the answer any more.
    pub deadline: Option<Instant>,
    /// Where it came from; known where shared memory is on.
    pub peer: Option<Peer>,
    /// The memory of messages that were read and not handled yet, in their order.
    held: Mutex<VecDeque<Reservation>>,
}

impl Call {
    /// The call with that head.
    ///
    /// # Errors
    /// `InvalidArgument` for a `grpc-timeout` that is none.
    pub fn new(headers: &HeaderMap, peer: Option<Peer>, context: Context) -> Result<Self, InferError> {
        let deadline = timeout(headers)?.and_then(|t| context.arrival.checked_add(t));
        Ok(Self { context, deadline, peer, held: Mutex::default() })
    }

    /// Keeps the memory of a message that is complete.
    pub fn hold(&self, reservation: Reservation) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push_back(reservation);
    }

    /// Hands over the memory of the oldest message: it is free again when that is dropped.
    #[must_use]
    pub fn release(&self) -> Option<Reservation> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// How long a request that came at `arrival` may take: what it asks for itself, and what is left of the call.
    #[must_use]
    pub fn timeout(&self, asked: Option<Duration>, arrival: Instant) -> Option<Duration> {
        // A request asks for no timeout with 0, so what is left is never 0.
        let least = Duration::from_nanos(1);
        let left = self.deadline.map(|d| d.saturating_duration_since(arrival).max(least));
        asked.into_iter().chain(left).min()
    }
}

/// `grpc-timeout`: at most eight digits and a unit.
///
/// Source: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, InferError> {
    let Some(value) = headers.get(&TIMEOUT) else { return Ok(None) };
    let text = value.to_str().unwrap_or("?");
    let parse = || {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    };
    parse().map(Some).ok_or_else(|| {
        let text = format!(
            "grpc-timeout: expected up to eight digits and one of H, M, S, m, u, n, got \"{}\"",
            shorten(text)
        );
        InferError::new(ErrorKind::InvalidArgument, text)
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn timeouts() {
        let cases: [(&[u8], Option<Duration>); 14] = [
            (b"1H", Some(Duration::from_secs(3600))),
            (b"2M", Some(Duration::from_secs(120))),
            (b"99999999S", Some(Duration::from_secs(99_999_999))),
            (b"5m", Some(Duration::from_millis(5))),
            (b"5u", Some(Duration::from_micros(5))),
            (b"0n", Some(Duration::ZERO)),
            (b"", None),
            (b"S", None),
            (b"1", None),
            (b"100000000S", None),
            (b"-1S", None),
            (b"+1S", None),
            (b"1s", None),
            (b"1\xc3\xa4", None),
        ];
        for (text, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT.clone(), HeaderValue::from_bytes(text).unwrap());
            assert_eq!(timeout(&headers).ok().flatten(), want, "{text:?}");
        }
        assert!(timeout(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn the_shorter_timeout_counts() {
        let arrival = Instant::now();
        let second = Duration::from_secs(1);
        let cases = [
            (None, None, None),
            (None, Some(second), Some(second)),
            (Some(2 * second), Some(second), Some(second)),
            (Some(second), Some(2 * second), Some(second)),
            (Some(second), None, Some(second)),
            (Some(Duration::ZERO), None, Some(Duration::from_nanos(1))),
        ];
        for (call, asked, want) in cases {
            let context = Context::unobserved(arrival);
            let call =
                Call { context, deadline: call.map(|c| arrival + c), peer: None, held: Mutex::default() };
            assert_eq!(call.timeout(asked, arrival), want, "{call:?} {asked:?}");
        }
    }
}
