//! What is counted while a run goes on: one tally for each thread, joined at the end.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::failure::{Failure, Failures, Kind};
use super::log::Samples;

/// Longest time that is told apart: an hour, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;
/// Digits that are kept of a time.
const DIGITS: u8 = 3;
/// First width of a step of the timeline.
const STEP: Duration = Duration::from_millis(100);
/// Steps at most: beyond, two become one.
const MAX_STEPS: usize = 240;
/// A request that leaves later than this after it was due left late.
const LATE: Duration = Duration::from_millis(1);

/// Times, in microseconds.
#[derive(Debug, Clone)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(
            Histogram::new_with_bounds(1, MAX_MICROS, DIGITS)
                .expect("the bounds are constants that hdrhistogram takes"),
        )
    }
}

/// The figures of a table, milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[allow(missing_docs, reason = "each is the percentile that it is called")]
pub struct Percentiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    pub max: f64,
}

impl Times {
    /// Records one.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record((time.as_micros() as u64).max(1));
    }

    fn merge(&mut self, other: &Self) {
        // Cannot fail: all have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time that `share` of all are at most, milliseconds; 0 where there are none.
    #[must_use]
    pub fn at(&self, share: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(share) as f64 / 1e3 }
    }

    /// How many took at most that long, milliseconds.
    #[must_use]
    pub fn within(&self, milliseconds: f64) -> u64 {
        self.0.count_between(0, (milliseconds * 1e3) as u64)
    }

    /// The shortest, milliseconds.
    #[must_use]
    pub fn min(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.min() as f64 / 1e3 }
    }

    /// The figures of a table.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        Percentiles {
            mean: if self.0.is_empty() { 0.0 } else { self.0.mean() / 1e3 },
            p50: self.at(0.5),
            p90: self.at(0.9),
            p95: self.at(0.95),
            p99: self.at(0.99),
            p999: self.at(0.999),
            max: self.at(1.0),
        }
    }
}

/// One step of the timeline.
#[derive(Debug, Clone, Copy, Default, Serialize, PartialEq, Eq)]
pub struct Step {
    /// Good answers that came in it.
    pub ok: u64,
    /// Requests that failed in it.
    pub failed: u64,
    /// Slowest of the good answers, microseconds.
    pub max_micros: u64,
}

/// Answers by when they came.
#[derive(Debug, Clone)]
pub struct Timeline {
    /// Width of a step.
    pub step: Duration,
    /// From the start of the measurement on.
    pub steps: Vec<Step>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { step: STEP, steps: Vec::new() }
    }
}

impl Timeline {
    fn at(&mut self, after: Duration) -> &mut Step {
        while after.as_nanos() / self.step.as_nanos() >= MAX_STEPS as u128 {
            self.widen();
        }
        let index = (after.as_nanos() / self.step.as_nanos()) as usize;
        if index >= self.steps.len() {
            self.steps.resize(index + 1, Step::default());
        }
        &mut self.steps[index]
    }

    fn widen(&mut self) {
        self.step *= 2;
        self.steps =
            self.steps.chunks(2).map(|pair| pair.iter().fold(Step::default(), |a, b| join(a, *b))).collect();
    }

    fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.step < other.step {
            self.widen();
        }
        while other.step < self.step {
            other.widen();
        }
        let length = self.steps.len().max(other.steps.len());
        self.steps.resize(length, Step::default());
        for (mine, theirs) in self.steps.iter_mut().zip(&other.steps) {
            *mine = join(*mine, *theirs);
        }
    }
}

fn join(a: Step, b: Step) -> Step {
    Step { ok: a.ok + b.ok, failed: a.failed + b.failed, max_micros: a.max_micros.max(b.max_micros) }
}

/// When a request was due, when it left, and when its answer was there.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    /// In a closed loop, when it left.
    pub due: Instant,
    /// When it was given to a connection.
    pub sent: Instant,
    /// When the answer had come, or had failed to.
    pub done: Instant,
}

/// Everything counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// From when a request was due to its answer.
    pub response: Times,
    /// From when a request left to its answer.
    pub service: Times,
    /// From when a request was due to when it left.
    pub delay: Times,
    /// Requests that left later than a millisecond after they were due.
    pub late: u64,
    /// Good answers.
    pub ok: u64,
    /// Failed requests.
    pub failed: u64,
    /// The same by kind.
    pub failures: Failures,
    /// Bodies sent with good answers, bytes.
    pub bytes_sent: u64,
    /// Bodies of good answers, bytes.
    pub bytes_received: u64,
    /// Answers by time.
    pub timeline: Timeline,
    /// Every request, with `--log`.
    pub samples: Samples,
    /// Requests of the warm-up, good or not; not in any other figure.
    pub warmup: u64,
    /// Requests without an answer when the run was cut short.
    pub cut: u64,
    /// Connections opened.
    pub opened: u64,
    /// Sum over the lanes of good answers a second.
    pub lane_rate: f64,
    /// Whether the run was ended early.
    pub stopped: bool,
    /// When the last good answer came, from the start of the measurement.
    pub last: Duration,
}

impl Tally {
    /// Counts a good answer.
    pub fn good(&mut self, begin: Instant, moments: Moments, sent: usize, received: u64) {
        let response = moments.done.saturating_duration_since(moments.due);
        self.response.record(response);
        self.service.record(moments.done.saturating_duration_since(moments.sent));
        self.ok += 1;
        self.bytes_sent += sent as u64;
        self.bytes_received += received;
        let after = moments.done.saturating_duration_since(begin);
        self.last = self.last.max(after);
        let step = self.timeline.at(after);
        step.ok += 1;
        step.max_micros = step.max_micros.max(response.as_micros() as u64);
    }

    /// Counts a failed request.
    pub fn bad(&mut self, begin: Instant, done: Instant, failure: &Failure) {
        self.failed += 1;
        self.failures.add(failure);
        self.timeline.at(done.saturating_duration_since(begin)).failed += 1;
    }

    /// Counts how late a request left.
    pub fn left(&mut self, due: Instant, sent: Instant) {
        let delay = sent.saturating_duration_since(due);
        self.delay.record(delay);
        self.late += u64::from(delay > LATE);
    }

    /// Counts requests that were due and did not leave.
    pub fn not_sent(&mut self, count: u64, why: &str) {
        self.failed += count;
        self.failures.add_many(Kind::NotSent, count, why);
    }

    /// Adds what another thread or round counted.
    pub fn merge(&mut self, other: &Self) {
        self.response.merge(&other.response);
        self.service.merge(&other.service);
        self.delay.merge(&other.delay);
        self.late += other.late;
        self.ok += other.ok;
        self.failed += other.failed;
        self.failures.merge(&other.failures);
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.timeline.merge(&other.timeline);
        self.samples.merge(&other.samples);
        self.warmup += other.warmup;
        self.cut += other.cut;
        self.opened += other.opened;
        self.lane_rate += other.lane_rate;
        self.stopped |= other.stopped;
        self.last = self.last.max(other.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_of_any_length_keeps_its_bound_and_loses_nothing() {
        let (mut long, mut short) = (Timeline::default(), Timeline::default());
        for second in 0..5000 {
            long.at(Duration::from_secs(second)).ok += 1;
        }
        short.at(Duration::from_millis(50)).failed += 1;
        short.at(Duration::from_secs(3)).ok += 1;
        for (mut a, b) in [(long.clone(), short.clone()), (short, long)] {
            a.merge(&b);
            assert!(a.steps.len() <= MAX_STEPS, "{}", a.steps.len());
            assert_eq!(
                a.steps.iter().map(|s| (s.ok, s.failed)).fold((0, 0), |x, y| (x.0 + y.0, x.1 + y.1)),
                (5001, 1)
            );
            assert_eq!(a.steps[0].failed, 1);
        }
    }

    #[test]
    fn percentiles_are_of_the_times_recorded() {
        let mut times = Times::default();
        assert_eq!((times.at(0.5), times.percentiles().max), (0.0, 0.0));
        for milliseconds in 1..=1000 {
            times.record(Duration::from_millis(milliseconds));
        }
        times.record(Duration::from_secs(100_000));
        let p = times.percentiles();
        for (got, want) in [(p.p50, 501.0), (p.p90, 901.0), (p.p99, 991.0), (p.max, 3_600_000.0)] {
            assert!((got / want - 1.0).abs() < 2e-3, "{got} for {want}");
        }
        assert_eq!(times.within(250.5), 250);
    }
}
