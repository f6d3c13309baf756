//! Spans, made of what was measured once it is over: nothing is begun on the way of a request.
//!
//! A request is `infer`, with `queue`, `decode`, `preprocess`, `compute` and `postprocess` below it for each batch that its
//! rows were in. A batch is a trace of its own, `batch`, linked to its requests; their `compute` spans are linked to it.
//! Names of attributes are OpenTelemetry's where it has them, else they begin with `visord.`.
//!
//! Source: <https://opentelemetry.io/docs/specs/semconv/>.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::Version;
use opentelemetry::trace::{Link, SpanContext, SpanKind, Status};
use opentelemetry::{KeyValue, SpanId};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::{Answered, Context, Facts, Record, Traced};
use super::trace::Tracer;

/// Requests that a batch is linked to, at most: the SDK's default.
const MAX_LINKS: usize = 128;

/// One batch as it ran, for the requests whose rows were in it.
#[derive(Debug)]
pub struct BatchRun {
    /// Rows that the engine ran.
    pub rows: usize,
    /// When an instance took it.
    pub taken: Instant,
    /// Decode and preprocess, or copying tensors.
    pub input: Duration,
    /// The sum over its images.
    pub decode: Duration,
    /// The sum over its images.
    pub preprocess: Duration,
    /// Engine.
    pub infer: Duration,
    /// When its outputs were there.
    pub collected: Instant,
    /// Post-processing.
    pub output: Duration,
    /// What the engine said, where it failed.
    pub error: Option<String>,
    /// Its span, where one of its requests is recorded.
    pub span: Option<SpanContext>,
}

impl BatchRun {
    /// When its inputs were staged: `decode` and `preprocess` end by then.
    fn staged(&self) -> Instant {
        (self.taken + self.input).min(self.collected)
    }

    /// When decoding ends. Images are decoded and preprocessed one after the other, and on a GPU several at once, so the
    /// time of both is divided as their sums are.
    fn decoded(&self) -> Instant {
        let both = self.decode + self.preprocess;
        if both.is_zero() {
            return self.taken;
        }
        let share = self.decode.as_secs_f64() / both.as_secs_f64();
        self.taken + self.staged().saturating_duration_since(self.taken).mul_f64(share)
    }

    /// When the engine began: it ends with `collected`, and not before the inputs were there.
    fn began(&self) -> Instant {
        self.collected.checked_sub(self.infer).unwrap_or(self.collected).max(self.staged())
    }

    fn ended(&self) -> Instant {
        self.collected + self.output
    }
}

/// A batch with requests that are recorded.
#[derive(Debug)]
pub struct TracedBatch {
    tracer: Arc<Tracer>,
    span: SpanContext,
    requests: Vec<SpanContext>,
}

/// Who runs a batch.
#[derive(Debug, Clone, Copy)]
pub struct Runner<'a> {
    /// The model.
    pub model: &'a str,
    /// Its version.
    pub version: u64,
    /// The backend's name.
    pub backend: &'static str,
    /// Which of its instances.
    pub instance: usize,
}

impl TracedBatch {
    /// The batch of these requests' rows; `None` where none of them is recorded.
    pub fn of<'a>(requests: impl Iterator<Item = &'a Context>) -> Option<Self> {
        let mut batch: Option<Self> = None;
        for traced in requests.filter_map(Context::traced) {
            let batch = batch.get_or_insert_with(|| Self {
                tracer: Arc::clone(&traced.tracer),
                span: traced.tracer.root(),
                requests: Vec::new(),
            });
            // Rows of a request follow one another.
            if batch.requests.last() != Some(&traced.span) && batch.requests.len() < MAX_LINKS {
                batch.requests.push(traced.span.clone());
            }
        }
        batch
    }

    /// Its span, for [`BatchRun::span`].
    #[must_use]
    pub fn span(&self) -> SpanContext {
        self.span.clone()
    }

    /// Queues its span.
    pub fn end(self, run: &BatchRun, runner: Runner<'_>) {
        let attributes = vec![
            KeyValue::new("visord.batch.size", int(run.rows)),
            KeyValue::new("visord.model.name", runner.model.to_owned()),
            KeyValue::new("visord.model.version", runner.version.to_string()),
            KeyValue::new("visord.backend", runner.backend),
            KeyValue::new("visord.instance", int(runner.instance)),
        ];
        let maker = Maker::new(&self.tracer);
        let mut span = maker.span("batch", self.span, SpanId::INVALID, run.taken, run.ended());
        span.attributes = attributes;
        span.links = links(self.requests);
        if let Some(error) = &run.error {
            span.status = Status::error(error.clone());
        }
        self.tracer.emit(vec![span]);
    }
}

/// The spans of a request.
pub(super) fn request(
    context: &Context,
    traced: &Traced,
    record: &Record,
    facts: &Facts,
    answered: Answered,
    end: Instant,
) -> Vec<SpanData> {
    let maker = Maker::new(&traced.tracer);
    let label = facts.label.as_deref().and_then(|label| std::str::from_utf8(label).ok());
    let model = label.and_then(|label| label.rsplit_once('/'));
    // As OpenTelemetry has it: what is done, and to what of a closed set.
    let name = model.map_or(Cow::Borrowed("infer"), |(name, _)| format!("infer {name}").into());
    let parent = traced.parent.as_ref().map_or(SpanId::INVALID, |p| p.span);
    let mut infer = maker.span(name, traced.span.clone(), parent, context.arrival, end);
    infer.parent_span_is_remote = traced.parent.is_some();
    infer.attributes = attributes(context, record, facts, answered);
    if let Some((name, version)) = model {
        infer.attributes.push(KeyValue::new("visord.model.name", name.to_owned()));
        infer.attributes.push(KeyValue::new("visord.model.version", version.to_owned()));
        infer.attributes.push(KeyValue::new("visord.rows", int(facts.rows)));
    }
    if record.head.is_some() {
        infer.span_kind = SpanKind::Server;
    }
    infer.links = links(traced.copied.clone());
    if let Some(kind) = facts.kind {
        infer.attributes.push(KeyValue::new("error.type", kind.status().reason));
        // As the conventions of HTTP have it: what the client did wrong is no error of the server.
        if kind.status().http >= 500 {
            infer.status = Status::error(kind.status().reason);
        }
    }
    let mut spans = Vec::with_capacity(1 + 5 * facts.runs.len().max(1));
    spans.push(infer);
    let child = |name, from: Instant, to: Instant| {
        // A client that left does not wait for the rest of its batch.
        let (from, to) = (from.clamp(context.arrival, end), to.clamp(context.arrival, end));
        let span = traced.tracer.child(&traced.span);
        maker.span(name, span, traced.span.span_id(), from, to)
    };
    let Some(enqueued) = facts.enqueued else { return spans };
    if facts.runs.is_empty() {
        spans.push(child("queue", enqueued, facts.taken.unwrap_or(end)));
    }
    for run in &facts.runs {
        spans.push(child("queue", enqueued, run.taken));
        if !run.decode.is_zero() {
            spans.push(child("decode", run.taken, run.decoded()));
        }
        if !run.input.is_zero() {
            spans.push(child("preprocess", run.decoded(), run.staged()));
        }
        let mut compute = child("compute", run.began(), run.collected);
        compute.attributes.push(KeyValue::new("visord.batch.size", int(run.rows)));
        compute.links = links(run.span.clone());
        if let Some(error) = &run.error {
            compute.status = Status::error(error.clone());
        }
        spans.push(compute);
        if run.error.is_none() {
            spans.push(child("postprocess", run.collected, run.ended()));
        }
    }
    spans
}

fn attributes(context: &Context, record: &Record, facts: &Facts, answered: Answered) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(16);
    let mut add = |key: &'static str, value: opentelemetry::Value| attributes.push(KeyValue::new(key, value));
    add("visord.request_id", context.id().to_owned().into());
    if let Some(protocol) = facts.protocol {
        add("visord.protocol", protocol.name().into());
    }
    if let Some(head) = record.head.as_deref() {
        if head.grpc {
            let (service, method) =
                head.path.trim_start_matches('/').split_once('/').unwrap_or((&head.path, ""));
            add("rpc.system", "grpc".into());
            add("rpc.service", service.to_owned().into());
            add("rpc.method", method.to_owned().into());
        } else {
            add("http.request.method", head.method.clone().into());
            add("url.path", head.path.clone().into());
        }
        add("network.protocol.version", version(head.version).into());
        add("client.address", head.peer.to_string().into());
    }
    match answered {
        Answered::Http(status) => add("http.response.status_code", i64::from(status).into()),
        Answered::Grpc(code) => add("rpc.grpc.status_code", i64::from(code).into()),
        Answered::Never | Answered::Unheard => {}
    }
    attributes
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

fn int(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn links(to: impl IntoIterator<Item = SpanContext>) -> SpanLinks {
    let mut links = SpanLinks::default();
    links.links = to.into_iter().map(Link::with_context).collect();
    links
}

/// Makes spans, all by one look at both clocks, so that they nest.
struct Maker<'a> {
    tracer: &'a Tracer,
    instant: Instant,
    system: SystemTime,
}

impl<'a> Maker<'a> {
    fn new(tracer: &'a Tracer) -> Self {
        Self { tracer, instant: Instant::now(), system: SystemTime::now() }
    }

    /// What the clock showed at `at`, which is over.
    fn time(&self, at: Instant) -> SystemTime {
        self.system.checked_sub(self.instant.saturating_duration_since(at)).unwrap_or(self.system)
    }

    fn span(
        &self,
        name: impl Into<Cow<'static, str>>,
        span_context: SpanContext,
        parent_span_id: SpanId,
        from: Instant,
        to: Instant,
    ) -> SpanData {
        SpanData {
            span_context,
            parent_span_id,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: self.time(from),
            end_time: self.time(to.max(from)),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.tracer.scope(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Some span.
    pub fn span(tracer: &Tracer) -> SpanData {
        let now = Instant::now();
        Maker::new(tracer).span("some", tracer.root(), SpanId::INVALID, now, now)
    }

    #[test]
    fn the_parts_of_a_batch_follow_one_another() {
        let ms = Duration::from_millis;
        // (input, decode, preprocess, infer, from taken to collected): staged, decoded and began, after taken.
        let cases = [
            ("one image", (10, 7, 3, 20, 31), (10, 7, 11)),
            ("tensors", (4, 0, 0, 6, 10), (4, 0, 4)),
            ("decoded by several threads", (10, 30, 10, 5, 40), (10, 7, 35)),
            ("the engine had begun before", (10, 5, 5, 100, 30), (10, 5, 10)),
            ("longer than it took", (50, 25, 25, 1, 30), (30, 15, 30)),
        ];
        for (what, (input, decode, preprocess, infer, collected), (staged, decoded, began)) in cases {
            let taken = Instant::now() + ms(1_000);
            let run = BatchRun {
                rows: 1,
                taken,
                input: ms(input),
                decode: ms(decode),
                preprocess: ms(preprocess),
                infer: ms(infer),
                collected: taken + ms(collected),
                output: ms(1),
                error: None,
                span: None,
            };
            let after = |at: Instant| at.saturating_duration_since(taken).as_millis();
            let found = (after(run.staged()), after(run.decoded()), after(run.began()));
            assert_eq!(found, (staged, decoded, began), "{what}");
        }
    }
}
