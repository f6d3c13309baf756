//! What follows one request from its head to its answer: its id always; what is known of it, where the access log or
//! its trace wants that.
//!
//! [`Observer::begin`] makes it, handlers and the scheduler add what they learn, and [`Exchange`] ends it. Where neither
//! log nor trace is on, all of this is the id and a moment in time.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Version};
use opentelemetry::TraceId;
use opentelemetry::trace::SpanContext;
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator};
use smallvec::SmallVec;

use super::access;
use super::metrics::{Protocol, StageTimes};
use super::spans::{self, BatchRun};
use super::trace::Tracer;
use super::w3c::{Remote, TRACEPARENT, traceparent};
use crate::error::{ErrorKind, shorten};

/// `x-request-id`, in requests and answers, headers and metadata.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from a client, bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Batches of one request that are remembered; a request may have thousands of rows.
const MAX_RUNS: usize = 64;

/// What is written of requests.
#[derive(Debug, Default)]
pub struct Observer {
    /// Whether each answered request gets a line.
    pub access_log: bool,
    /// Where spans go.
    pub tracer: Option<Arc<Tracer>>,
}

/// The head of a request, as far as it is told.
#[derive(Debug)]
pub struct Head {
    /// Its verb.
    pub method: String,
    /// Its path, shortened, without the query.
    pub path: String,
    /// 1.0, 1.1 or 2 of HTTP.
    pub version: Version,
    /// Where it came from.
    pub peer: IpAddr,
    /// Whether it is a call of gRPC.
    pub grpc: bool,
}

impl Head {
    /// That of a request.
    #[must_use]
    pub fn new(method: &Method, path: &str, version: Version, peer: IpAddr, grpc: bool) -> Self {
        let (method, path) = (shorten(method.as_str()).to_owned(), shorten(path).to_owned());
        Self { method, path, version, peer, grpc }
    }
}

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// With that status of HTTP.
    Http(u16),
    /// With that code of gRPC.
    Grpc(i32),
    /// By nobody: the client left, or its connection was cut.
    Never,
    /// There was nobody to answer: it was a copy.
    Unheard,
}

/// A request's span, and what it hangs on.
#[derive(Debug)]
pub(super) struct Traced {
    pub tracer: Arc<Tracer>,
    pub span: SpanContext,
    pub parent: Option<Remote>,
    /// Of a copy: the request that was copied.
    pub copied: Option<SpanContext>,
}

/// What is known of a request that is told about.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Set where it is an inference.
    pub protocol: Option<Protocol>,
    /// Whether it only asks how we are.
    pub quiet: bool,
    /// `name/version`.
    pub label: Option<Bytes>,
    pub rows: usize,
    pub stages: Option<StageTimes>,
    pub kind: Option<ErrorKind>,
    pub bytes_in: u64,
    pub bytes_out: Option<u64>,
    pub enqueued: Option<Instant>,
    pub taken: Option<Instant>,
    pub runs: SmallVec<[Arc<BatchRun>; 1]>,
}

/// A request that is told about when it is answered.
#[derive(Debug)]
pub(super) struct Record {
    pub access: bool,
    pub traced: Option<Traced>,
    /// The trace that it belongs to, recorded here or not.
    pub trace: Option<TraceId>,
    /// `None` for a copy.
    pub head: Option<Arc<Head>>,
    /// The caller's, for the further requests of a stream.
    remote: Option<Remote>,
    facts: Mutex<Facts>,
}

impl Record {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    id: HeaderValue,
    /// When its head had been read.
    pub arrival: Instant,
    record: Option<Arc<Record>>,
}

impl Observer {
    /// Begins a request.
    pub fn begin(&self, headers: &HeaderMap, head: impl FnOnce() -> Head) -> Exchange {
        let arrival = Instant::now();
        let id =
            headers.get(&REQUEST_ID).filter(|id| is_id(id.as_bytes())).cloned().unwrap_or_else(generated);
        if !self.access_log && self.tracer.is_none() {
            return Exchange { context: Context { id, arrival, record: None } };
        }
        let record = self.record(Remote::of(headers), || Some(Arc::new(head())));
        Exchange { context: Context { id, arrival, record } }
    }

    /// Begins request `number` of the stream that `call` opened. Its id is what `id` says, else the stream's with the
    /// number behind; its trace is the one of `parent`, else the stream's.
    pub fn next(&self, call: &Context, number: u64, id: Option<&str>, parent: Option<&str>) -> Exchange {
        let arrival = Instant::now();
        let given = id.filter(|id| is_id(id.as_bytes())).and_then(|id| HeaderValue::from_str(id).ok());
        let id = given
            .or_else(|| HeaderValue::try_from(format!("{}/{number}", call.id())).ok())
            .unwrap_or_else(|| call.id.clone());
        let record = call.record.as_ref().and_then(|of_call| {
            let remote = parent.and_then(Remote::parse).or_else(|| of_call.remote.clone());
            self.record(remote, || of_call.head.clone())
        });
        Exchange { context: Context { id, arrival, record } }
    }

    fn record(
        &self,
        remote: Option<Remote>,
        head: impl FnOnce() -> Option<Arc<Head>>,
    ) -> Option<Arc<Record>> {
        let traced = self.tracer.as_ref().and_then(|tracer| tracer.begin(remote.as_ref()));
        if traced.is_none() && !self.access_log {
            return None;
        }
        let trace = traced.as_ref().map(|t| t.span.trace_id()).or(remote.as_ref().map(|r| r.trace));
        let facts = Mutex::default();
        Some(Arc::new(Record { access: self.access_log, traced, trace, head: head(), remote, facts }))
    }
}

impl Context {
    /// A request that came at `arrival` and is told to nobody.
    #[must_use]
    pub fn unobserved(arrival: Instant) -> Self {
        Self { id: HeaderValue::from_static(""), arrival, record: None }
    }

    /// A copy of this request that runs from now on: a trace of its own, linked to this one's, if this one is recorded.
    #[must_use]
    pub fn copied(&self) -> Exchange {
        let traced = self.record.as_ref().and_then(|r| r.traced.as_ref()).map(|t| t.tracer.copy(&t.span));
        let record = traced.map(|traced| {
            let trace = Some(traced.span.trace_id());
            let traced = Some(traced);
            let facts = Mutex::default();
            Arc::new(Record { access: false, traced, trace, head: None, remote: None, facts })
        });
        Exchange { context: Self { id: self.id.clone(), arrival: Instant::now(), record } }
    }

    /// Its id: what the client sent, or one of ours.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.to_str().unwrap_or("")
    }

    /// Adds to the headers of its answer what a client needs to find it again.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID.clone(), self.id.clone());
        if let Some(traceparent) = self.traceparent() {
            headers.insert(TRACEPARENT.clone(), traceparent);
        }
    }

    /// The `traceparent` of its span, where it has one.
    #[must_use]
    pub fn traceparent(&self) -> Option<HeaderValue> {
        let record = self.record.as_ref()?;
        let span = &record.traced.as_ref()?.span;
        let told = record.facts().protocol.is_some();
        told.then(|| traceparent(span.trace_id(), span.span_id()))
    }

    /// Whether anybody wants to know what becomes of it.
    #[must_use]
    pub fn observed(&self) -> bool {
        self.record.is_some()
    }

    /// Its span, where it is recorded.
    pub(super) fn traced(&self) -> Option<&Traced> {
        self.record.as_ref()?.traced.as_ref()
    }

    fn note(&self, learn: impl FnOnce(&mut Facts)) {
        if let Some(record) = &self.record {
            learn(&mut record.facts());
        }
    }

    /// It is an inference, by that protocol.
    pub fn inference(&self, protocol: Protocol) {
        self.note(|f| f.protocol = Some(protocol));
    }

    /// It asks how we are, or is a stream whose requests are told one by one: worth a line only at the level debug.
    pub fn quiet(&self) {
        self.note(|f| f.quiet = true);
    }

    /// Its body, as sent.
    pub fn received(&self, bytes: usize) {
        self.note(|f| f.bytes_in = bytes as u64);
    }

    /// The message that answers it; `bytes` counts them.
    pub fn answers(&self, bytes: impl FnOnce() -> usize) {
        self.note(|f| f.bytes_out = Some(bytes() as u64));
    }

    /// Its answer is an error.
    pub fn failed(&self, kind: ErrorKind) {
        self.note(|f| f.kind = Some(kind));
    }

    /// The version that answers it (`name/version`) takes these rows.
    pub fn submitted(&self, label: &Bytes, rows: usize) {
        self.note(|f| {
            f.label = Some(label.clone());
            f.rows = rows;
        });
    }

    /// Its rows wait from `at` on.
    pub fn queued(&self, at: Instant) {
        self.note(|f| f.enqueued = Some(at));
    }

    /// An instance has taken one of its rows.
    pub fn taken(&self, at: Instant) {
        self.note(|f| {
            f.taken.get_or_insert(at);
        });
    }

    /// One of its rows was in that batch.
    pub fn ran(&self, run: &Arc<BatchRun>) {
        self.note(|f| {
            if f.runs.len() < MAX_RUNS && !f.runs.iter().any(|r| Arc::ptr_eq(r, run)) {
                f.runs.push(Arc::clone(run));
            }
        });
    }

    /// All of its rows are back.
    pub fn inferred(&self, stages: StageTimes) {
        self.note(|f| f.stages = Some(stages));
    }
}

/// A request from its head to its answer. One that is dropped before it was answered counts as cancelled.
#[derive(Debug)]
pub struct Exchange {
    context: Context,
}

impl Exchange {
    /// What goes along with the request.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// It was answered, with that many bytes where they are known by now.
    pub fn finish(mut self, answered: Answered, bytes: Option<u64>) {
        self.end(answered, bytes);
    }

    fn end(&mut self, answered: Answered, bytes: Option<u64>) {
        let Some(record) = self.context.record.take() else { return };
        let end = Instant::now();
        let mut facts = std::mem::take(&mut *record.facts());
        facts.bytes_out = facts.bytes_out.or(bytes);
        if answered == Answered::Never {
            facts.kind.get_or_insert(ErrorKind::Cancelled);
        }
        if record.access {
            access::write(&self.context, &record, &facts, answered, end);
        }
        if let (Some(traced), Some(_)) = (&record.traced, facts.protocol) {
            traced.tracer.emit(spans::request(&self.context, traced, &record, &facts, answered, end));
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(Answered::Never, None);
    }
}

/// Whether a client's id can be taken over: short, and of printable ASCII, so that it breaks no log and no header.
fn is_id(id: &[u8]) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len()) && id.iter().all(|b| matches!(b, b' '..=b'~'))
}

/// 128 random bits, as 32 hexadecimal digits.
fn generated() -> HeaderValue {
    let random = RandomIdGenerator::default().new_trace_id().to_bytes();
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_mut(2).zip(random) {
        let digit = |n: u8| b"0123456789abcdef"[usize::from(n)];
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    HeaderValue::from_bytes(&digits).expect("hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(observer: &Observer, id: &[u8]) -> Exchange {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID.clone(), HeaderValue::from_bytes(id).unwrap());
        observer.begin(&headers, || panic!("nobody asked for the head"))
    }

    #[test]
    fn ids_are_taken_over_or_replaced() {
        let observer = Observer::default();
        let longest = "x".repeat(MAX_ID_BYTES);
        for good in ["a", "order 7/b", "~!\"'<>{}", &longest] {
            assert_eq!(begin(&observer, good.as_bytes()).context().id(), good);
        }
        let over = [b'x'; MAX_ID_BYTES + 1];
        let bad: [&[u8]; 5] = [b"", b"a\tb", "\u{e4}".as_bytes(), b"\xff", &over];
        for bad in bad {
            let exchange = begin(&observer, bad);
            let id = exchange.context().id();
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{bad:?} became {id}");
        }
        assert_ne!(generated(), generated());
        let call = begin(&observer, b"call");
        assert_eq!(observer.next(call.context(), 3, None, None).context().id(), "call/3");
        assert_eq!(observer.next(call.context(), 3, Some("mine"), None).context().id(), "mine");
        assert_eq!(observer.next(call.context(), 3, Some("a\nb"), None).context().id(), "call/3");
    }

    #[test]
    fn nothing_is_kept_where_nobody_asks() {
        let exchange = begin(&Observer::default(), b"a");
        let context = exchange.context().clone();
        context.inference(Protocol::Http);
        assert!(!context.observed() && context.traceparent().is_none());
        assert!(!context.copied().context().observed());
    }
}
