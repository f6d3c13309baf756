//! When requests are due in an open loop, and the thread that says so.
//!
//! A thread, since tokio's timers count milliseconds: at 5,000 requests a second five would leave at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::args::Arrivals;

/// Longest sleep: the end of the run is seen after it.
const NAP: Duration = Duration::from_millis(50);

/// Random numbers: SplitMix64.
///
/// **Source:** Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in 0..1, 0 included.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index below `count`, which is not 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

/// The times at which requests are due, from the start of the run, without an end.
#[derive(Debug, Clone)]
pub struct Schedule {
    rate: f64,
    arrivals: Arrivals,
    random: Random,
    sent: u64,
    /// Of the last arrival, seconds; with Poisson alone.
    at: f64,
}

impl Schedule {
    /// `rate` requests a second.
    #[must_use]
    pub const fn new(rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        Self { rate, arrivals, random: Random::new(seed), sent: 0, at: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match self.arrivals {
            Arrivals::Constant => self.sent as f64 / self.rate,
            Arrivals::Poisson => {
                self.at -= (1.0 - self.random.unit()).ln() / self.rate;
                self.at
            }
        };
        self.sent += 1;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// What the pacer saw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paced {
    /// Requests of the measurement that were due.
    pub due: u64,
    /// Those of them that the backlog had no place for.
    pub refused: u64,
    /// Most that waited at a time.
    pub backlog: usize,
}

/// From when to when, and how many.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// When the first is due.
    pub start: Instant,
    /// When the measurement begins.
    pub begin: Instant,
    /// When it ends, where time ends it.
    pub end: Option<Instant>,
    /// Requests of the measurement, where their number ends it.
    pub requests: Option<u64>,
}

/// Puts into `backlog` when each request is due, as it is due; blocking, to the end of the run or until `stop`.
pub fn pace(schedule: Schedule, bounds: &Bounds, backlog: &Sender<Instant>, stop: &AtomicBool) -> Paced {
    let mut paced = Paced::default();
    for after in schedule {
        let due = bounds.start + after;
        let measured = due >= bounds.begin;
        if bounds.end.is_some_and(|end| due >= end) || (measured && bounds.requests == Some(paced.due)) {
            break;
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return paced;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(NAP));
        }
        paced.due += u64::from(measured);
        match backlog.try_send(due) {
            Ok(()) => paced.backlog = paced.backlog.max(backlog.max_capacity() - backlog.capacity()),
            Err(TrySendError::Full(_)) => {
                paced.backlog = backlog.max_capacity();
                paced.refused += u64::from(measured);
            }
            Err(TrySendError::Closed(_)) => break,
        }
    }
    paced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_the_rate_that_was_asked_for_and_the_spread_that_is_theirs() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let times: Vec<f64> =
                Schedule::new(500.0, arrivals, 7).take(100_000).map(|t| t.as_secs_f64()).collect();
            assert!((times[99_999] / 200.0 - 1.0).abs() < 0.02, "{arrivals:?}: {}", times[99_999]);
            let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) * 500.0).collect();
            let variance = gaps.iter().map(|g| (g - 1.0).powi(2)).sum::<f64>() / gaps.len() as f64;
            // An exponential distribution has the square of its mean.
            let want = if arrivals == Arrivals::Poisson { 1.0 } else { 0.0 };
            assert!((variance - want).abs() < 0.05, "{arrivals:?}: {variance}");
            let again: Vec<f64> =
                Schedule::new(500.0, arrivals, 7).take(100_000).map(|t| t.as_secs_f64()).collect();
            assert_eq!(times, again);
        }
    }

    #[test]
    fn a_backlog_without_a_place_refuses_and_counts() {
        let (sender, mut backlog) = tokio::sync::mpsc::channel(3);
        let start = Instant::now();
        let bounds = Bounds { start, begin: start, end: None, requests: Some(10) };
        let schedule = Schedule::new(1e5, Arrivals::Constant, 0);
        let paced = pace(schedule.clone(), &bounds, &sender, &AtomicBool::new(false));
        assert_eq!((paced.due, paced.refused, paced.backlog), (10, 7, 3));
        assert_eq!(backlog.try_recv(), Ok(start));
        let stopped = pace(schedule, &bounds, &sender, &AtomicBool::new(true));
        assert_eq!(stopped.due, 0);
    }
}
