//! The access log: one line for each answered request, of the target `visord::access`.

use std::time::{Duration, Instant};

use super::context::{Answered, Context, Facts, Record};
use super::metrics::{Protocol, StageTimes};

/// The target of its lines, for `--log-level`.
pub const TARGET: &str = "visord::access";

/// A macro, since the level of a line is part of its call.
macro_rules! answered {
    ($level:ident, $context:expr, $record:expr, $facts:expr, $answered:expr, $end:expr) => {{
        let (facts, record) = ($facts, $record);
        let (model, version) = model(facts);
        let head = record.head.as_deref();
        let grpc = head.is_some_and(|h| h.grpc);
        let stages = facts.stages;
        let part = |f: fn(&StageTimes) -> Duration| stages.as_ref().map(|s| millis(f(s)));
        tracing::$level!(
            target: TARGET,
            request_id = $context.id(),
            trace_id = record.trace.map(|t| tracing::field::display(t)),
            protocol = facts.protocol.map_or(if grpc { "grpc" } else { "http" }, Protocol::name),
            method = head.map(|h| h.method.as_str()),
            path = head.map(|h| h.path.as_str()),
            peer = head.map(|h| tracing::field::display(h.peer)),
            model,
            version,
            rows = some(facts.rows),
            batch_size = facts.runs.iter().map(|r| r.rows).max(),
            status = status($answered),
            outcome = facts.kind.map_or("success", |kind| kind.status().reason),
            bytes_in = facts.bytes_in,
            bytes_out = facts.bytes_out,
            total_ms = millis($end.saturating_duration_since($context.arrival)),
            queue_ms = part(|s| s.queue),
            input_ms = part(|s| s.input),
            compute_ms = part(|s| s.infer),
            postprocess_ms = part(|s| s.output),
            "answered"
        );
    }};
}
/// Writes the line of a request.
pub(super) fn write(context: &Context, record: &Record, facts: &Facts, answered: Answered, end: Instant) {
    if facts.quiet {
        if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            answered!(debug, context, record, facts, answered, end);
        }
    } else {
        answered!(info, context, record, facts, answered, end);
    }
}

/// `name/version`, taken apart.
fn model(facts: &Facts) -> (Option<&str>, Option<&str>) {
    let label = facts.label.as_deref().and_then(|label| std::str::from_utf8(label).ok());
    label.and_then(|label| label.rsplit_once('/')).unzip()
}

/// What is 0 only where it is not known.
fn some(n: usize) -> Option<usize> {
    Some(n).filter(|n| *n > 0)
}

/// A status of HTTP, or a code of gRPC; 499 where nobody was there to be answered.
fn status(answered: Answered) -> i64 {
    match answered {
        Answered::Http(status) => status.into(),
        Answered::Grpc(code) => code.into(),
        Answered::Never => 499,
        Answered::Unheard => 0,
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
