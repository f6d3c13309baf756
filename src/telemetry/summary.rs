//! The summary line: every so often, what PaddleServing's users read in `pipeline.tracer`, as one line of the log for each
//! model version.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::meter::percentile;
use super::metrics::{DurationStat, ModelMetrics};

/// The target of its lines, for `--log-level`.
pub const TARGET: &str = "visord::summary";

/// Counters of a model version at one moment.
#[derive(Debug, Clone, Default)]
struct Counts {
    latencies: Vec<u64>,
    success: (u64, u64),
    fail: (u64, u64),
    stages: [(u64, u64); 5],
    rows: u64,
    batches: u64,
    busy: Duration,
}

impl Counts {
    fn of(metrics: &ModelMetrics, now: Instant) -> Option<Self> {
        let meter = metrics.meter.as_ref()?;
        let s = &metrics.statistics;
        let stages = [&s.queue, &meter.decode, &meter.preprocess, &s.compute_infer, &s.compute_output];
        use std::sync::atomic::Ordering::Relaxed;
        Some(Self {
            latencies: meter.latencies.counts(),
            success: s.success.get(),
            fail: s.fail.get(),
            stages: stages.map(DurationStat::get),
            rows: s.inference_count.load(Relaxed),
            batches: s.execution_count.load(Relaxed),
            busy: metrics.busy(now),
        })
    }
}

/// A version that serves: its model, its number and its metrics.
pub type Serving = (String, u64, Arc<ModelMetrics>);

/// A load of a model version, and its counters when they were last looked at.
struct Watched {
    model: String,
    version: u64,
    metrics: Arc<ModelMetrics>,
    then: Counts,
    since: Instant,
}

/// Writes the lines.
#[derive(Default)]
pub struct Summary {
    watched: Vec<Watched>,
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    seconds: f64,
    requests: u64,
    failed: u64,
    rate: f64,
    success_ratio: Option<f64>,
    mean_ms: Option<f64>,
    /// p50, p90, p95, p99.
    percentiles_ms: Option<[f64; 4]>,
    /// queue, decode, preprocess, compute, postprocess.
    stages_ms: [Option<f64>; 5],
    mean_batch: Option<f64>,
    idle_ratio: Option<f64>,
}

impl Summary {
    /// Writes a line for each version that `serving` names every `interval`, without end.
    pub async fn run(serving: impl Fn() -> Vec<Serving>, interval: Duration) {
        let mut summary = Self::default();
        summary.look(serving(), Instant::now());
        let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Instant::now();
            summary.write(now);
            summary.look(serving(), now);
        }
    }

    /// Takes up versions that have come, and lets go of those that have gone, whose last line is written.
    fn look(&mut self, serving: Vec<Serving>, now: Instant) {
        self.watched.retain(|w| serving.iter().any(|(_, _, metrics)| Arc::ptr_eq(metrics, &w.metrics)));
        for (model, version, metrics) in serving {
            if self.watched.iter().any(|w| Arc::ptr_eq(&w.metrics, &metrics)) {
                continue;
            }
            // What it has counted so far, it has counted since then.
            let since = metrics.since().unwrap_or(now);
            self.watched.push(Watched { model, version, metrics, then: Counts::default(), since });
        }
        self.watched.sort_by(|a, b| (&a.model, a.version).cmp(&(&b.model, b.version)));
    }

    fn write(&mut self, now: Instant) {
        for watched in &mut self.watched {
            let Some(counts) = Counts::of(&watched.metrics, now) else { continue };
            let instances = watched.metrics.instances().len();
            let took = now.saturating_duration_since(watched.since);
            let line = Line::between(&watched.then, &counts, took, instances);
            line.log(&watched.model, watched.version);
            (watched.then, watched.since) = (counts, now);
        }
    }
}

impl Line {
    fn between(then: &Counts, now: &Counts, took: Duration, instances: usize) -> Self {
        let seconds = took.as_secs_f64();
        let grown =
            |then: (u64, u64), now: (u64, u64)| (now.0.saturating_sub(then.0), now.1.saturating_sub(then.1));
        let mean = |(count, ns): (u64, u64)| (count > 0).then(|| ns as f64 / count as f64 / 1e6);
        let (success, fail) = (grown(then.success, now.success), grown(then.fail, now.fail));
        let requests = success.0 + fail.0;
        let earlier = then.latencies.iter().copied().chain(std::iter::repeat(0));
        let latencies: Vec<u64> =
            now.latencies.iter().zip(earlier).map(|(n, t)| n.saturating_sub(t)).collect();
        let percentiles = [0.5, 0.9, 0.95, 0.99].map(|p| percentile(&latencies, p).as_secs_f64() * 1e3);
        let mut stages_ms = [None; 5];
        for (stage, (t, n)) in stages_ms.iter_mut().zip(then.stages.iter().zip(&now.stages)) {
            *stage = mean(grown(*t, *n));
        }
        let batches = now.batches.saturating_sub(then.batches);
        let time = seconds * instances as f64;
        let busy = now.busy.saturating_sub(then.busy).as_secs_f64();
        Self {
            seconds,
            requests,
            failed: fail.0,
            rate: if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            success_ratio: (requests > 0).then(|| success.0 as f64 / requests as f64),
            mean_ms: mean(success),
            percentiles_ms: latencies.iter().any(|c| *c > 0).then_some(percentiles),
            stages_ms,
            mean_batch: (batches > 0).then(|| now.rows.saturating_sub(then.rows) as f64 / batches as f64),
            idle_ratio: (time > 0.0).then(|| (1.0 - busy / time).clamp(0.0, 1.0)),
        }
    }

    fn log(&self, model: &str, version: u64) {
        // Three decimals: microseconds of milliseconds.
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let rounded = |value: Option<f64>| value.map(round);
        let [p50, p90, p95, p99] = self.percentiles_ms.map_or([None; 4], |p| p.map(Some));
        let [queue, decode, preprocess, compute, postprocess] = self.stages_ms;
        tracing::info!(
            target: TARGET,
            model,
            version,
            seconds = round(self.seconds),
            requests = self.requests,
            failed = self.failed,
            rate = round(self.rate),
            success_ratio = rounded(self.success_ratio),
            mean_ms = rounded(self.mean_ms),
            p50_ms = rounded(p50),
            p90_ms = rounded(p90),
            p95_ms = rounded(p95),
            p99_ms = rounded(p99),
            queue_ms = rounded(queue),
            decode_ms = rounded(decode),
            preprocess_ms = rounded(preprocess),
            compute_ms = rounded(compute),
            postprocess_ms = rounded(postprocess),
            mean_batch = rounded(self.mean_batch),
            idle_ratio = rounded(self.idle_ratio),
            "summary"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Protocol, StageTimes, Telemetry};

    #[test]
    fn a_line_says_what_came_between() {
        let ms = Duration::from_millis;
        let metrics = Telemetry::new(false).summarizing(true).model("m", 1);
        metrics.set_instances(2);
        let start = Instant::now() + Duration::from_secs(1);
        let stages = StageTimes { queue: ms(3), input: ms(4), infer: ms(8), output: ms(1) };
        let answer = |total| metrics.request_succeeded(Protocol::Oip, total, stages);
        answer(ms(5_000));
        metrics.images(&[ms(900)], &[ms(900)]);
        let then = Counts::of(&metrics, start).unwrap();
        for i in 1..=100 {
            answer(ms(i));
        }
        for _ in 0..25 {
            metrics.request_failed(Protocol::Oip, ms(1), crate::error::ErrorKind::QueueFull);
        }
        metrics.request_succeeded(Protocol::Shadow, ms(7_000), stages);
        metrics.images(&[ms(2), ms(4)], &[ms(1), ms(2)]);
        for rows in [1, 2, 6] {
            metrics.batch_done(rows, std::iter::empty(), stages);
        }
        metrics.instances()[0].begin(start);
        metrics.instances()[1].begin(start + ms(500));
        metrics.instances()[1].end(start + ms(1_000));
        let now = Counts::of(&metrics, start + ms(2_000)).unwrap();
        let line = Line::between(&then, &now, ms(2_000), 2);
        let percentiles = line.percentiles_ms.unwrap();
        for (found, want) in percentiles.into_iter().zip([50.0, 90.0, 95.0, 99.0]) {
            assert!((found - want).abs() < want * 0.01, "{percentiles:?}");
        }
        let want = Line {
            seconds: 2.0,
            requests: 125,
            failed: 25,
            rate: 62.5,
            success_ratio: Some(0.8),
            mean_ms: Some(50.5),
            percentiles_ms: Some(percentiles),
            stages_ms: [Some(3.0), Some(3.0), Some(1.5), Some(8.0), Some(1.0)],
            mean_batch: Some(3.0),
            // 2.5 of 4 seconds.
            idle_ratio: Some(0.375),
        };
        assert_eq!(line, want);
        let quiet = Line::between(&now, &now, ms(1_000), 2);
        assert_eq!((quiet.requests, quiet.percentiles_ms, quiet.idle_ratio), (0, None, Some(1.0)));
    }
}
