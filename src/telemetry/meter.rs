//! What the summary line is made of: how long instances were busy, and latencies of one load of a model version.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::metrics::DurationStat;

/// Set while the instance is busy. What is left are 292 years of nanoseconds.
const BUSY: u64 = 1 << 63;

/// How long one instance was busy: one number, which its own thread alone writes, so that whoever reads it at any moment
/// is right.
#[derive(Debug)]
pub struct BusyClock {
    origin: Instant,
    /// Idle: the nanoseconds that it was busy. Busy: the nanoseconds after `origin` at which it would have begun, had it
    /// been busy without a break.
    state: AtomicU64,
}

impl Default for BusyClock {
    fn default() -> Self {
        Self { origin: Instant::now(), state: AtomicU64::new(0) }
    }
}

impl BusyClock {
    fn at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(BUSY - 1)
    }

    /// It has work from `now` on; nothing changes where it had.
    pub fn begin(&self, now: Instant) {
        let state = self.state.load(Relaxed);
        if state & BUSY == 0 {
            self.state.store(BUSY | self.at(now).saturating_sub(state), Relaxed);
        }
    }

    /// It has no work from `now` on; nothing changes where it had none.
    pub fn end(&self, now: Instant) {
        let state = self.state.load(Relaxed);
        if state & BUSY != 0 {
            self.state.store(self.at(now).saturating_sub(state & !BUSY), Relaxed);
        }
    }

    /// How long it was busy until `now`.
    #[must_use]
    pub fn busy(&self, now: Instant) -> Duration {
        let state = self.state.load(Relaxed);
        let nanos = if state & BUSY == 0 { state } else { self.at(now).saturating_sub(state & !BUSY) };
        Duration::from_nanos(nanos)
    }
}

/// Bits of a latency that are kept: 64 steps for each power of two, so that a percentile is off by at most 0.8 %.
const STEP_BITS: u32 = 6;
const STEPS: usize = 1 << STEP_BITS;
/// Longest latency that is told apart, microseconds: 2^32, which is 71 minutes.
const MAX_BITS: u32 = 32;
const BUCKETS: usize = STEPS * (MAX_BITS - STEP_BITS + 1) as usize;

/// Counts of latencies, in steps that grow with them; recording is one addition.
pub struct Latencies(Box<[AtomicU64]>);

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Latencies {
    /// Counts one.
    pub fn record(&self, latency: Duration) {
        self.0[bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX))].fetch_add(1, Relaxed);
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|c| c.load(Relaxed)).collect()
    }
}

fn bucket(micros: u64) -> usize {
    let micros = micros.min((1 << MAX_BITS) - 1);
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(STEP_BITS + 1);
    shift as usize * STEPS + (micros >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let shift = (bucket / STEPS).saturating_sub(1);
    let low = (bucket - shift * STEPS) as u64;
    Duration::from_nanos((low << shift) * 1_000 + (500 << shift))
}

/// The smallest latency that a share of `counts`, 0 to 1, does not exceed; zero of none.
#[must_use]
pub fn percentile(counts: &[u64], share: f64) -> Duration {
    let total: u64 = counts.iter().sum();
    let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    found.map_or(Duration::ZERO, middle)
}

/// What is only counted for the summary line.
#[derive(Debug, Default)]
pub struct Meter {
    /// Of requests that succeeded, arrival to answer.
    pub latencies: Latencies,
    /// One for each image.
    pub decode: DurationStat,
    /// One for each image.
    pub preprocess: DurationStat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_near() {
        for micros in [0, 1, 63, 64, 65, 127, 128, 1_000, 123_456, 9_999_999, (1 << 32) - 1, u64::MAX] {
            let latencies = Latencies::default();
            latencies.record(Duration::from_micros(micros));
            let want = micros.min((1 << MAX_BITS) - 1) as f64 + 0.5;
            let found = percentile(&latencies.counts(), 0.5).as_nanos() as f64 / 1e3;
            assert!((found - want).abs() <= 0.5 + want * 0.008, "{micros}: {found}");
        }
        let latencies = Latencies::default();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let counts = latencies.counts();
        for (share, ms) in [(0.5, 500.0), (0.9, 900.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = percentile(&counts, share).as_secs_f64() * 1e3;
            assert!((found - ms).abs() <= ms * 0.008, "p{share}: {found}");
        }
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
        // Every bucket is of one value more than the one before.
        assert!((1..100_000).all(|m| (0..=1).contains(&(bucket(m) - bucket(m - 1)))));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn busy_time_is_right_at_any_moment() {
        let clock = BusyClock::default();
        let at = |ms| clock.origin + Duration::from_millis(ms);
        let busy = |ms| clock.busy(at(ms)).as_millis();
        assert_eq!(busy(5), 0);
        clock.begin(at(10));
        assert_eq!(busy(10), 0);
        assert_eq!(busy(15), 5);
        // A second batch in hand.
        clock.begin(at(16));
        assert_eq!(busy(20), 10);
        clock.end(at(20));
        assert_eq!(busy(100), 10);
        clock.end(at(110));
        clock.begin(at(200));
        assert_eq!(busy(200), 10);
        assert_eq!(busy(230), 40);
        clock.end(at(240));
        assert_eq!(busy(300), 50);
    }
}
