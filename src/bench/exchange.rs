//! One request and its answer, on a connection that is opened where there is none.

use std::cell::Cell;
use std::hash::Hasher;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response};
use tokio::sync::Mutex;

use super::args::{HttpVersion, Protocol};
use super::failure::{Failure, Kind, SAMPLE_BYTES};
use super::request::Prepared;
use super::target::{Sender, Target};
use crate::wire::Fields;

/// What is kept of an answer to find PaddleServing's `err_no` in: it is the first field.
const KEPT_BYTES: usize = 1024;

/// A connection, or the place for one.
#[derive(Debug)]
pub struct Link {
    target: Arc<Target>,
    /// With HTTP/2, what its streams share.
    shared: Mutex<Option<Sender>>,
    opened: Rc<Cell<u64>>,
}

impl Link {
    /// A connection that is opened when it is needed, and counted in `opened`.
    pub fn new(target: &Arc<Target>, opened: &Rc<Cell<u64>>) -> Self {
        Self { target: Arc::clone(target), shared: Mutex::new(None), opened: Rc::clone(opened) }
    }

    async fn open(&self) -> Result<Sender, Failure> {
        let sender = self.target.connect().await?;
        self.opened.set(self.opened.get() + 1);
        Ok(sender)
    }

    async fn sender(&self) -> Result<Sender, Failure> {
        if self.target.http == HttpVersion::V1 {
            return self.open().await;
        }
        let mut shared = self.shared.lock().await;
        if let Some(Sender::V2(sender)) = &*shared
            && !sender.is_closed()
        {
            return Ok(Sender::V2(sender.clone()));
        }
        let sender = self.open().await?;
        if let Sender::V2(sender) = &sender {
            *shared = Some(Sender::V2(sender.clone()));
        }
        Ok(sender)
    }
}

/// How answers are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// What is spoken.
    pub protocol: Protocol,
    /// Largest answer, bytes.
    pub max_bytes: u64,
    /// Longest wait for one.
    pub timeout: Duration,
    /// Whether answers are compared.
    pub verify: bool,
}

/// A good answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Bytes of its body.
    pub bytes: u64,
    /// Of the body, where answers are compared.
    pub hash: u64,
}

/// Sends one request after the other.
#[derive(Debug)]
pub struct Lane {
    link: Rc<Link>,
    sender: Option<Sender>,
    kept: Vec<u8>,
    reading: Reading,
}

impl Lane {
    /// A lane on `link`: alone there with HTTP/1.1, one of its streams with HTTP/2.
    pub fn new(link: &Rc<Link>, reading: Reading) -> Self {
        Self { link: Rc::clone(link), sender: None, kept: Vec::with_capacity(KEPT_BYTES), reading }
    }

    /// Opens the connection where it is not open.
    ///
    /// # Errors
    /// [`Kind::Connect`], [`Kind::Timeout`].
    pub async fn connect(&mut self) -> Result<(), Failure> {
        let limit = self.reading.timeout;
        match tokio::time::timeout(limit, self.connected()).await {
            Ok(done) => done,
            Err(_) => Err(late("no connection", limit)),
        }
    }

    async fn connected(&mut self) -> Result<(), Failure> {
        if let Some(sender) = &mut self.sender
            && !sender.is_closed()
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        self.sender = None;
        let mut sender = self.link.sender().await?;
        sender.ready().await.map_err(|e| Failure::new(Kind::Connect, e.to_string()))?;
        self.sender = Some(sender);
        Ok(())
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// What kept a good answer from coming.
    pub async fn exchange(&mut self, prepared: &Prepared) -> Result<Answer, Failure> {
        let limit = self.reading.timeout;
        let result = match tokio::time::timeout(limit, self.exchanged(prepared)).await {
            Ok(result) => result,
            Err(_) => Err(late("no answer", limit)),
        };
        if let Err(failure) = &result {
            let whole = matches!(failure.kind, Kind::Status(_) | Kind::Grpc(_) | Kind::ErrNo(_));
            // What is left of an answer would be taken for the next one's.
            if !whole && self.link.target.http == HttpVersion::V1 {
                self.sender = None;
            }
        }
        result
    }

    async fn exchanged(&mut self, prepared: &Prepared) -> Result<Answer, Failure> {
        self.connected().await?;
        let Some(sender) = &mut self.sender else { return Err(Failure::new(Kind::Connect, "no connection")) };
        let mut request = Request::new(Full::new(Bytes::clone(&prepared.body)));
        *request.method_mut() = prepared.method.clone();
        *request.uri_mut() = prepared.uri.clone();
        *request.headers_mut() = prepared.headers.clone();
        let response = sender.send(request).await.map_err(|e| Failure::of_hyper(&e))?;
        read(response, &self.reading, &mut self.kept).await
    }
}

fn late(what: &str, limit: Duration) -> Failure {
    Failure::new(Kind::Timeout, format!("{what} within {} s", limit.as_secs_f64()))
}

async fn read(
    response: Response<Incoming>,
    reading: &Reading,
    kept: &mut Vec<u8>,
) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut hasher = reading.verify.then(std::hash::DefaultHasher::new);
    let (mut bytes, mut trailers) = (0u64, None);
    kept.clear();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| Failure::of_hyper(&e))?.into_data() {
            Ok(data) => {
                bytes += data.len() as u64;
                if bytes > reading.max_bytes {
                    let text = format!("an answer of more than --max-answer-bytes {}", reading.max_bytes);
                    return Err(Failure::new(Kind::TooLarge, text));
                }
                let wanted = data.len().min(KEPT_BYTES.saturating_sub(kept.len()));
                kept.extend_from_slice(&data[..wanted]);
                if let Some(hasher) = &mut hasher {
                    hasher.write(&data);
                }
            }
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    if !head.status.is_success() {
        return Err(Failure::new(Kind::Status(head.status.as_u16()), sample(kept)));
    }
    match reading.protocol {
        Protocol::Http | Protocol::Oip | Protocol::OipJson => {}
        Protocol::Paddle => check(json_err_no(kept), kept)?,
        Protocol::OipGrpc => grpc_status(&head.headers, trailers.as_ref())?,
        Protocol::PaddleGrpc => {
            grpc_status(&head.headers, trailers.as_ref())?;
            check(message_err_no(kept), kept)?;
        }
    }
    Ok(Answer { bytes, hash: hasher.map_or(0, |h| h.finish()) })
}

/// The begin of a body as text.
fn sample(kept: &[u8]) -> String {
    String::from_utf8_lossy(&kept[..kept.len().min(SAMPLE_BYTES)]).into_owned()
}

fn check(err_no: i32, kept: &[u8]) -> Result<(), Failure> {
    if err_no == 0 { Ok(()) } else { Err(Failure::new(Kind::ErrNo(err_no), sample(kept))) }
}

/// The status stands in the trailers, or in the head of an answer without a message.
fn grpc_status(head: &HeaderMap, trailers: Option<&HeaderMap>) -> Result<(), Failure> {
    let in_either = |name: &str| {
        let value = trailers.and_then(|t| t.get(name)).or_else(|| head.get(name))?;
        value.to_str().ok().map(str::to_owned)
    };
    match in_either("grpc-status").map(|s| s.parse::<u32>()) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => Err(Failure::new(Kind::Grpc(code), in_either("grpc-message").unwrap_or_default())),
        Some(Err(_)) | None => Err(Failure::new(Kind::Protocol, "an answer without grpc-status")),
    }
}

/// `err_no` of PaddleServing's JSON; 0 where it does not say.
fn json_err_no(begin: &[u8]) -> i32 {
    const KEY: &[u8] = b"\"err_no\":";
    let Some(at) = memchr::memmem::find(begin, KEY) else { return 0 };
    let rest = begin[at + KEY.len()..].trim_ascii_start();
    let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'-').unwrap_or(rest.len());
    // What is no number is no success.
    std::str::from_utf8(&rest[..end]).ok().and_then(|n| n.parse().ok()).unwrap_or(-1)
}

/// `err_no` of PaddleServing's message, field 1; 0 where it is left out. `begin` may be cut off behind it.
fn message_err_no(begin: &[u8]) -> i32 {
    let message = begin.get(5..).unwrap_or_default();
    let first = Fields::new(message).map_while(Result::ok).find(|f| f.number == 1);
    first.and_then(|f| f.as_i32().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paddle_s_errors_are_found_in_both_forms() {
        for (json, want) in [
            (r#"{"err_no":0,"err_msg":"","key":["out"]"#, 0),
            (r#"{"key":[],"err_no": 5000,"err_msg":"x"}"#, 5000),
            (r#"{"err_no":-1}"#, -1),
            (r#"{"err_no":"x"}"#, -1),
            (r#"{"embedding":[1]}"#, 0),
            ("", 0),
        ] {
            assert_eq!(json_err_no(json.as_bytes()), want, "{json}");
        }
        for (message, want) in [
            (&b"\0\0\0\0\x03\x08\x88\x27"[..], 5000),
            (b"\0\0\0\0\x03\x1a\x01o", 0),
            (b"\0\0\0\0\0", 0),
            (b"", 0),
            // Cut off within a later field.
            (b"\0\0\0\x10\0\x08\x07\x12\xff\x7fabc", 7),
        ] {
            assert_eq!(message_err_no(message), want, "{message:?}");
        }
    }

    #[test]
    fn the_status_of_grpc_is_taken_from_trailers_or_head() {
        let map = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| {
                    (hyper::header::HeaderName::from_static(n), hyper::header::HeaderValue::from_static(v))
                })
                .collect::<HeaderMap>()
        };
        let none = HeaderMap::new();
        assert!(grpc_status(&none, Some(&map(&[("grpc-status", "0")]))).is_ok());
        let failed =
            grpc_status(&map(&[("grpc-status", "5"), ("grpc-message", "no model")]), None).unwrap_err();
        assert_eq!((failed.kind, &*failed.text), (Kind::Grpc(5), "no model"));
        for head in [none, map(&[("grpc-status", "x")])] {
            assert_eq!(grpc_status(&head, None).unwrap_err().kind, Kind::Protocol);
        }
    }
}
