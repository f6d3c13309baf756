//! Traces: which requests are recorded, and how their spans get to the collector.
//!
//! Spans go through a bounded queue to one task, which sends them by OTLP. Where the queue is full, or the collector does
//! not take them, they are dropped and counted; no request waits for either. The SDK's own batch processor does the
//! same, but tells nobody how many it drops, and bounds its end with a timeout of its own thread.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Label};
use opentelemetry::trace::{SpanContext, SpanKind, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, TraceId};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample as _, SpanData, SpanExporter,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::args::TelemetryArgs;
use super::context::Traced;
use super::metrics::Telemetry;
use super::names;
use super::w3c::Remote;

/// Spans that wait to be sent, at most: some 4 MiB.
const QUEUE_SPANS: usize = 8_192;
/// Spans of one call to the collector: the SDK's default.
const BATCH_SPANS: usize = 512;
/// How long a span waits for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// How long the collector may take over one call.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two lines of the log about a collector that fails.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Longest that the end waits for spans to be sent, however long the requests may take.
const MAX_FLUSH: Duration = Duration::from_secs(5);

/// Decides which requests are recorded, and queues their spans.
#[derive(Debug)]
pub struct Tracer {
    queue: mpsc::Sender<SpanData>,
    sampler: Sampler,
    ids: RandomIdGenerator,
    scope: InstrumentationScope,
    dropped: Dropped,
}

/// The task that sends.
#[derive(Debug)]
pub struct Exporting {
    stop: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

/// Why spans were dropped.
#[derive(Clone)]
struct Dropped {
    queue_full: Counter,
    export: Counter,
}

impl std::fmt::Debug for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dropped").finish_non_exhaustive()
    }
}

impl Dropped {
    fn new(telemetry: &Telemetry) -> Self {
        let of = |why| telemetry.counter(names::TRACE_SPANS_DROPPED, vec![Label::new("reason", why)]);
        Self { queue_full: of("queue_full"), export: of("export") }
    }
}

impl Tracer {
    /// Starts to send to `--otlp-endpoint`, if there is one; to be called within the runtime. Nothing is connected before
    /// the first span.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    pub fn start(
        args: &TelemetryArgs,
        telemetry: &Telemetry,
    ) -> Result<Option<(Arc<Self>, Exporting)>, std::io::Error> {
        let Some(endpoint) = &args.otlp_endpoint else { return Ok(None) };
        let mut builder =
            Otlp::builder().with_tonic().with_endpoint(endpoint.clone()).with_timeout(EXPORT_TIMEOUT);
        if endpoint.starts_with("https:") {
            let tls = tonic::transport::ClientTlsConfig::new().with_enabled_roots();
            builder = builder.with_tls_config(tls);
        }
        let mut exporter = builder.build().map_err(std::io::Error::other)?;
        exporter.set_resource(&resource(&args.otlp_service_name));
        Ok(Some(Self::with(exporter, args.otlp_sample_ratio, telemetry)))
    }

    fn with(
        exporter: impl SpanExporter + 'static,
        ratio: f64,
        telemetry: &Telemetry,
    ) -> (Arc<Self>, Exporting) {
        let dropped = Dropped::new(telemetry);
        let exported = telemetry.counter(names::TRACE_SPANS_EXPORTED, Vec::new());
        let (queue, spans) = mpsc::channel(QUEUE_SPANS);
        let (stop, stopped) = mpsc::channel(1);
        let sender = Sender { exporter, exported, dropped: dropped.export.clone(), warned: None };
        let task = tokio::spawn(sender.run(spans, stopped));
        let scope = InstrumentationScope::builder("visord").with_version(env!("CARGO_PKG_VERSION")).build();
        let sampler = Sampler::TraceIdRatioBased(ratio);
        let tracer = Self { queue, sampler, ids: RandomIdGenerator::default(), scope, dropped };
        (Arc::new(tracer), Exporting { stop, task })
    }

    /// A span for a request, if it is to be recorded: as its caller says, else by the ratio.
    pub(super) fn begin(self: &Arc<Self>, remote: Option<&Remote>) -> Option<Traced> {
        let trace = match remote {
            Some(remote) if remote.sampled => remote.trace,
            Some(_) => return None,
            None => {
                let trace = self.ids.new_trace_id();
                let sampled =
                    self.sampler.should_sample(None, trace, "infer", &SpanKind::Server, &[], &[]).decision;
                if sampled != SamplingDecision::RecordAndSample {
                    return None;
                }
                trace
            }
        };
        let state = remote.map_or(TraceState::NONE, |r| r.state.clone());
        let span = self.span(trace, state);
        Some(Traced { tracer: Arc::clone(self), span, parent: remote.cloned(), copied: None })
    }

    /// A span of a trace of its own for the copy of a request.
    pub(super) fn copy(self: &Arc<Self>, of: &SpanContext) -> Traced {
        let span = self.root();
        Traced { tracer: Arc::clone(self), span, parent: None, copied: Some(of.clone()) }
    }

    /// The first span of a new trace.
    pub(super) fn root(&self) -> SpanContext {
        self.span(self.ids.new_trace_id(), TraceState::NONE)
    }

    fn span(&self, trace: TraceId, state: TraceState) -> SpanContext {
        SpanContext::new(trace, self.ids.new_span_id(), TraceFlags::SAMPLED, false, state)
    }

    /// A new span below another.
    pub(super) fn child(&self, of: &SpanContext) -> SpanContext {
        self.span(of.trace_id(), of.trace_state().clone())
    }

    /// The library that spans are of.
    pub(super) fn scope(&self) -> InstrumentationScope {
        self.scope.clone()
    }

    /// Queues spans, all or none of them.
    pub(super) fn emit(&self, spans: Vec<SpanData>) {
        match self.queue.try_reserve_many(spans.len()) {
            Ok(permits) => permits.zip(spans).for_each(|(permit, span)| permit.send(span)),
            Err(_) => self.dropped.queue_full.increment(spans.len() as u64),
        }
    }
}

/// What spans say of this process.
fn resource(service: &str) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let host = host.trim();
    if !host.is_empty() {
        attributes.push(KeyValue::new("host.name", host.to_owned()));
    }
    Resource::builder().with_service_name(service.to_owned()).with_attributes(attributes).build()
}

impl Exporting {
    /// Sends what is queued, until `deadline` or for five seconds; whether that was enough.
    pub async fn shut_down(mut self, deadline: Instant) -> bool {
        let _ = self.stop.try_send(());
        let deadline = deadline.min(Instant::now() + MAX_FLUSH);
        if timeout_at(deadline, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the collector at --otlp-endpoint did not take the last spans in time");
            return false;
        }
        true
    }
}

/// Takes spans out of the queue and sends them.
struct Sender<E> {
    exporter: E,
    exported: Counter,
    dropped: Counter,
    warned: Option<Instant>,
}

impl<E: SpanExporter> Sender<E> {
    async fn run(mut self, mut spans: mpsc::Receiver<SpanData>, mut stopped: mpsc::Receiver<()>) {
        let mut more = true;
        while more {
            let mut batch = Vec::with_capacity(BATCH_SPANS);
            tokio::select! {
                biased;
                _ = stopped.recv() => spans.close(),
                n = spans.recv_many(&mut batch, BATCH_SPANS) => more = n > 0,
            }
            let full = Instant::now() + BATCH_DELAY;
            while more && batch.len() < BATCH_SPANS {
                let room = BATCH_SPANS - batch.len();
                tokio::select! {
                    biased;
                    _ = stopped.recv(), if !spans.is_closed() => spans.close(),
                    n = spans.recv_many(&mut batch, room) => more = n > 0,
                    () = tokio::time::sleep_until(full) => break,
                }
            }
            if !batch.is_empty() {
                self.send(batch).await;
            }
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let why = match timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => return self.exported.increment(count),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no answer within {} seconds", EXPORT_TIMEOUT.as_secs()),
        };
        self.dropped.increment(count);
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            self.warned = Some(Instant::now());
            tracing::warn!(spans = count, error = why, "the collector at --otlp-endpoint did not take spans");
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::error::OTelSdkResult;

    use super::*;

    fn telemetry() -> Telemetry {
        Telemetry::new(false)
    }

    #[derive(Debug)]
    struct Never;

    impl SpanExporter for Never {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            std::future::pending().await
        }
    }

    fn remote(sampled: bool) -> Remote {
        let flags = if sampled { "01" } else { "00" };
        let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        Remote::parse(&text).expect("a traceparent")
    }

    #[tokio::test]
    async fn the_caller_decides_before_the_ratio() {
        for (ratio, parent, want) in [
            (1.0, None, true),
            (0.0, None, false),
            (0.0, Some(true), true),
            (1.0, Some(false), false),
            (1.0, Some(true), true),
        ] {
            let (tracer, _exporting) = Tracer::with(Never, ratio, &telemetry());
            let parent = parent.map(remote);
            let traced = tracer.begin(parent.as_ref());
            assert_eq!(traced.is_some(), want, "{ratio} {parent:?}");
            if let (Some(traced), Some(parent)) = (traced, parent) {
                assert_eq!(traced.span.trace_id(), parent.trace);
                assert_ne!(traced.span.span_id(), parent.span);
            }
        }
        let (tracer, _exporting) = Tracer::with(Never, 0.25, &telemetry());
        let sampled = (0..4_000).filter(|_| tracer.begin(None).is_some()).count();
        assert!((850..1_150).contains(&sampled), "{sampled} of 4000 at 0.25");
    }

    #[tokio::test]
    async fn a_collector_that_hangs_costs_spans_and_a_bounded_end() {
        let telemetry = telemetry();
        let (tracer, exporting) = Tracer::with(Never, 1.0, &telemetry);
        let span = super::super::spans::tests::span(&tracer);
        for _ in 0..QUEUE_SPANS {
            tracer.emit(vec![span.clone(), span.clone()]);
        }
        let text = telemetry.render();
        let full = format!("{}{{reason=\"queue_full\"}} {QUEUE_SPANS}", names::TRACE_SPANS_DROPPED);
        assert!(text.contains(&full), "no {full} in\n{text}");
        let start = Instant::now();
        assert!(!exporting.shut_down(start + Duration::from_millis(100)).await);
        assert!(start.elapsed() >= Duration::from_millis(100));
        let (_tracer, exporting) = Tracer::with(Never, 1.0, &telemetry);
        assert!(exporting.shut_down(start + Duration::from_secs(3_600)).await, "nothing was queued");
    }
}
