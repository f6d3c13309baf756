//! What an HTTP request offers to be recognised by, and the header that says which version answered.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::reply::Reply;
use crate::scheduler::served::ServedModel;
use crate::scheduler::traffic::{MODEL_VERSION, Sticky};

static VERSION_HEADER: HeaderName = HeaderName::from_static(MODEL_VERSION);

/// The headers, and the value of the one parameter that the model asks for.
#[derive(Debug)]
pub struct HttpSticky<'a> {
    headers: &'a HeaderMap,
    parameter: Option<Cow<'a, str>>,
}

impl<'a> HttpSticky<'a> {
    /// `parameter` is the value of [`crate::scheduler::traffic::Target::sticky_parameter`], where the request has it.
    #[must_use]
    pub fn new(headers: &'a HeaderMap, parameter: Option<Cow<'a, str>>) -> Self {
        Self { headers, parameter }
    }
}

impl Sticky for HttpSticky<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get_all(name).iter().find_map(|value| value.to_str().ok())
    }

    fn parameter(&self, _name: &str) -> Option<Cow<'_, str>> {
        self.parameter.as_deref().map(Cow::Borrowed)
    }
}

/// Names the version that gave this answer.
pub fn name_version(answer: &mut Reply, served: &ServedModel) {
    // Names of models are letters, digits, '_', '-' and '.', so the value is always one.
    if let Ok(label) = HeaderValue::from_maybe_shared(served.label.clone()) {
        answer.headers_mut().insert(&VERSION_HEADER, label);
    }
}

/// A value of a query as forms write it: `%41` is `A`, `+` is a space. `None` for what is then no UTF-8.
#[must_use]
pub fn query_value(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high * 16 + low),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            // As browsers do, an escape that is none stands for itself.
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_query() {
        let cases = [
            ("alice", Some("alice")),
            ("", Some("")),
            ("a%40b+c%2B", Some("a@b c+")),
            ("%C3%a4", Some("ä")),
            ("ä", Some("ä")),
            ("%C3", None),
            ("%", Some("%")),
            ("100%", Some("100%")),
            ("%4", Some("%4")),
            ("%zz%+1", Some("%zz% 1")),
            ("%00", Some("\0")),
        ];
        for (text, want) in cases {
            assert_eq!(query_value(text).as_deref(), want, "{text}");
        }
    }

    #[test]
    fn the_first_header_that_is_text() {
        let mut headers = HeaderMap::new();
        headers.append("x-user-id", HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        headers.append("x-user-id", HeaderValue::from_static("alice"));
        headers.append("x-user-id", HeaderValue::from_static("bob"));
        let by = HttpSticky::new(&headers, Some("carol".into()));
        assert_eq!((by.header("x-user-id"), by.header("x-other")), (Some("alice"), None));
        assert_eq!(by.parameter("user_id").as_deref(), Some("carol"));
    }
}
