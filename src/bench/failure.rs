//! What can become of a request besides an answer, by kind, with one example of each.

use std::collections::BTreeMap;

use serde::Serialize;

/// Kinds that are kept apart: a server may send any number of codes.
const MAX_KINDS: usize = 64;
/// What is shown of an answer's reason, bytes.
pub const SAMPLE_BYTES: usize = 200;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection, or no TLS on it.
    Connect,
    /// No whole answer in time.
    Timeout,
    /// The connection ended before the whole answer was here.
    Closed,
    /// What came is not HTTP, or not the protocol that was asked for.
    Protocol,
    /// The answer is over its bound.
    TooLarge,
    /// HTTP status other than 200.
    Status(u16),
    /// gRPC status other than 0.
    Grpc(u32),
    /// PaddleServing's `err_no` other than 0.
    ErrNo(i32),
    /// Another answer than the first to the same request.
    Differs,
    /// Due, but never sent: the backlog was full, or it waited there for too long.
    NotSent,
    /// Codes beyond those kept apart.
    Other,
}

impl Kind {
    /// Its word in the table and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::Status(_) => "status",
            Self::Grpc(_) => "grpc_status",
            Self::ErrNo(_) => "err_no",
            Self::Differs => "differs",
            Self::NotSent => "not_sent",
            Self::Other => "other",
        }
    }

    /// Its number, where it has one.
    #[must_use]
    pub fn code(self) -> Option<i64> {
        match self {
            Self::Status(code) => Some(code.into()),
            Self::Grpc(code) => Some(code.into()),
            Self::ErrNo(code) => Some(code.into()),
            Self::Connect
            | Self::Timeout
            | Self::Closed
            | Self::Protocol
            | Self::TooLarge
            | Self::Differs
            | Self::NotSent
            | Self::Other => None,
        }
    }
}

/// One failure.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// What the server or the system said.
    pub text: String,
}

impl Failure {
    /// A failure with what is known of it.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What hyper says of a request that broke.
    #[must_use]
    pub fn of_hyper(error: &hyper::Error) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        let broken = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        let io = std::error::Error::source(error).is_some_and(|e| {
            e.is::<std::io::Error>()
                || e.downcast_ref::<h2::Error>().is_some_and(|e| e.is_io() || e.is_go_away())
        });
        let kind = if error.is_parse_too_large() {
            Kind::TooLarge
        } else if broken || io {
            Kind::Closed
        } else {
            Kind::Protocol
        };
        Self { kind, text }
    }
}

/// Failures counted by kind.
#[derive(Debug, Clone, Default)]
pub struct Failures(BTreeMap<Kind, (u64, String)>);

/// One kind, counted.
#[derive(Debug, Clone, Serialize)]
pub struct Counted {
    /// [`Kind::name`].
    pub kind: &'static str,
    /// [`Kind::code`].
    pub code: Option<i64>,
    /// How many.
    pub count: u64,
    /// What was said of the first.
    pub sample: String,
}

impl Failures {
    /// Counts one.
    pub fn add(&mut self, failure: &Failure) {
        self.add_many(failure.kind, 1, &failure.text);
    }

    /// Counts several of a kind.
    pub fn add_many(&mut self, kind: Kind, count: u64, sample: &str) {
        if count == 0 {
            return;
        }
        let full = self.0.len() >= MAX_KINDS && !self.0.contains_key(&kind);
        let entry = self.0.entry(if full { Kind::Other } else { kind });
        entry.or_insert_with(|| (0, shown(sample))).0 += count;
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        for (kind, (count, sample)) in &other.0 {
            self.add_many(*kind, *count, sample);
        }
    }

    /// Each kind that occurred, most frequent first.
    #[must_use]
    pub fn counted(&self) -> Vec<Counted> {
        let mut all: Vec<Counted> = self
            .0
            .iter()
            .map(|(kind, (count, sample))| Counted {
                kind: kind.name(),
                code: kind.code(),
                count: *count,
                sample: sample.clone(),
            })
            .collect();
        all.sort_by_key(|c| std::cmp::Reverse(c.count));
        all
    }
}

/// A text of a server as one short line that a terminal can be given.
fn shown(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SAMPLE_BYTES).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_codes_takes_a_bounded_place_and_none_is_lost() {
        let mut failures = Failures::default();
        for code in 0..1000 {
            failures.add(&Failure::new(Kind::ErrNo(code), format!("\x1b[31mcode\n{code}")));
        }
        let counted = failures.counted();
        assert_eq!(counted.len(), MAX_KINDS + 1);
        assert_eq!(counted.iter().map(|c| c.count).sum::<u64>(), 1000);
        assert_eq!((counted[0].kind, counted[0].count), ("other", 1000 - MAX_KINDS as u64));
        assert!(counted.iter().all(|c| !c.sample.contains(char::is_control)), "{counted:?}");
    }
}
