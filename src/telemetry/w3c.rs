//! W3C Trace Context: `traceparent` and `tracestate` as they come in and go out.
//!
//! Source: <https://www.w3.org/TR/trace-context-2/>.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry::trace::TraceState;
use opentelemetry::{SpanId, TraceId};

/// `traceparent`.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Bytes of all `tracestate` headers together that are read. The specification wants at least 512 passed on.
const MAX_STATE_BYTES: usize = 4_096;

/// The caller's span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The trace that it belongs to.
    pub trace: TraceId,
    /// The caller's span in it.
    pub span: SpanId,
    /// Whether the caller records it.
    pub sampled: bool,
    /// What other systems have added.
    pub state: TraceState,
}

impl Remote {
    /// What the headers say; `None` where they say nothing that is valid, so that a new trace begins.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let first = values.next()?;
        // Two of them contradict one another, or came from somebody who may not add one.
        if values.next().is_some() {
            return None;
        }
        let mut remote = Self::parse(first.to_str().ok()?)?;
        remote.state = state(headers).unwrap_or_default();
        Some(remote)
    }

    /// The text of a `traceparent`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (version, rest) = (hex(bytes.get(..2)?)?, bytes.get(LENGTH..)?);
        let separated = [2, 35, 52].iter().all(|&at| bytes[at] == b'-');
        // Later versions may add fields; version ff does not exist.
        let length = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|b| *b == b'-') };
        if !separated || !length || version == 0xff {
            return None;
        }
        let trace = TraceId::from(hex(&bytes[3..35])?);
        let span = SpanId::from(u64::try_from(hex(&bytes[36..52])?).ok()?);
        let flags = hex(&bytes[53..55])?;
        let valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        valid.then_some(Self { trace, span, sampled: flags & 1 == 1, state: TraceState::NONE })
    }
}

/// At most 32 lowercase hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// Every `tracestate` header as one list; `None` where one of them is wrong, since nobody could tell the rest.
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut joined = String::new();
    for value in headers.get_all(&TRACESTATE) {
        let value = value.to_str().ok()?;
        if joined.len() + value.len() > MAX_STATE_BYTES {
            return None;
        }
        for member in value.split(',').map(|m| m.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()) {
            if !joined.is_empty() {
                joined.push(',');
            }
            joined.push_str(member);
        }
    }
    joined.parse().ok()
}

/// The `traceparent` of a span that is recorded.
#[must_use]
pub fn traceparent(trace: TraceId, span: SpanId) -> HeaderValue {
    HeaderValue::try_from(format!("00-{trace:032x}-{span:016x}-01")).expect("hexadecimal digits and dashes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_a_traceparent_is() {
        let cases = [
            (GOOD, Some(true)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some(false)),
            // Only the last bit says "sampled"; the others are somebody's.
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe", Some(false)),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", Some(true)),
            // A later version, with and without more fields.
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Some(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-is-this", Some(true)),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g", None),
            ("00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01", None),
            ("00-0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01", None),
            ("0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            (" 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\u{e4}-1", None),
            ("", None),
            ("-", None),
        ];
        for (text, want) in cases {
            assert_eq!(Remote::parse(text).map(|r| r.sampled), want, "{text}");
        }
        let good = Remote::parse(GOOD).unwrap();
        assert_eq!(traceparent(good.trace, good.span), GOOD);
        assert!(Remote::parse(&"0".repeat(100_000)).is_none());
    }

    #[test]
    fn what_a_tracestate_is() {
        let long = "x=".to_owned() + &"y".repeat(256);
        let many: String = (0..40).map(|i| format!("k{i}=v,")).collect();
        let cases: [(&[&str], &str); 8] = [
            (&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            (&["a=1", "b=2"], "a=1,b=2"),
            (&["a=1 ,\tb=2, ,"], "a=1,b=2"),
            (&["A=1"], ""),
            (&["a"], ""),
            (&["a=1,b=2=3"], ""),
            (&[&long], &long),
            (&[&"a=1,".repeat(2_000)], ""),
        ];
        for (values, want) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT.clone(), HeaderValue::from_static(GOOD));
            for value in values {
                headers.append(TRACESTATE.clone(), HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(Remote::of(&headers).unwrap().state.header(), want, "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT.clone(), HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE.clone(), HeaderValue::from_str(&many).unwrap());
        assert_eq!(Remote::of(&headers).unwrap().state.header().split(',').count(), 32);
        headers.append(TRACEPARENT.clone(), HeaderValue::from_static(GOOD));
        assert_eq!(Remote::of(&headers), None, "two of them");
    }
}
