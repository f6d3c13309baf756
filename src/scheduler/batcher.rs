//! The batching decision: a pure function of the queue, the clock and the model's configuration.
//!
//! Semantics are those of Triton's dynamic batcher, with one addition: when several instances are idle, rows
//! that wait together are shared out among them instead of all going to the first.

use std::time::{Duration, Instant};

/// What a model's configuration says of batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Rows that one execution may hold; at least 1.
    pub max_batch_size: usize,
    /// Sizes worth stopping at, ascending, none above `max_batch_size`.
    pub preferred_batch_size: Vec<usize>,
    /// How long the oldest row may wait for company while an instance is idle.
    pub max_queue_delay: Duration,
}

/// What the decision may know of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueView {
    /// Rows that could run in one batch with the row at the head.
    pub rows: usize,
    /// When the row at the head came in; meaningless where `rows` is 0.
    pub oldest: Instant,
    /// Instances without work, the asking one included; at least 1.
    pub idle_instances: usize,
    /// The server is shutting down: waiting for company is pointless.
    pub draining: bool,
}

/// What the asking instance does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Runs the first `n` rows, `n` at least 1.
    Dispatch(usize),
    /// Looks again at that time, or when a row comes in.
    WaitUntil(Instant),
    /// Looks again when a row comes in.
    Wait,
}

/// Decides for one idle instance.
///
/// ```
/// use std::time::{Duration, Instant};
/// use visord::scheduler::batcher::{BatchPolicy, Decision, QueueView, decide};
///
/// let policy = BatchPolicy {
///     max_batch_size: 8,
///     preferred_batch_size: vec![4],
///     max_queue_delay: Duration::from_millis(2),
/// };
/// let now = Instant::now();
/// let queue = |rows| QueueView { rows, oldest: now, idle_instances: 1, draining: false };
/// assert_eq!(decide(queue(3), now, &policy), Decision::WaitUntil(now + policy.max_queue_delay));
/// assert_eq!(decide(queue(5), now, &policy), Decision::Dispatch(4));
/// ```
#[must_use]
pub fn decide(queue: QueueView, now: Instant, policy: &BatchPolicy) -> Decision {
    if queue.rows == 0 {
        return Decision::Wait;
    }
    let share = queue.rows.div_ceil(queue.idle_instances.max(1)).min(policy.max_batch_size);
    let preferred = policy.preferred_batch_size.iter().rev().copied().find(|p| *p <= share);
    let due = queue.oldest + policy.max_queue_delay;
    let full = queue.rows >= policy.max_batch_size;
    if queue.draining || now >= due {
        // Nobody waits any longer, so the rest that fits no preferred size goes along.
        Decision::Dispatch(share)
    } else if full || preferred.is_some() {
        Decision::Dispatch(preferred.unwrap_or(share))
    } else {
        Decision::WaitUntil(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn table() {
        use Decision::{Dispatch, Wait, WaitUntil};
        let t0 = Instant::now();
        let due = WaitUntil(t0 + ms(10));
        // (rows, idle, age in ms, delay in ms, preferred, draining) -> decision, at max_batch_size 8
        type Case = (usize, usize, u64, u64, &'static [usize], bool, Decision);
        let cases: &[Case] = &[
            (0, 1, 0, 0, &[], false, Wait),
            (0, 1, 0, 10, &[4], true, Wait),
            (1, 1, 0, 0, &[], false, Dispatch(1)),
            (5, 1, 0, 0, &[], false, Dispatch(5)),
            (20, 1, 0, 0, &[], false, Dispatch(8)),
            (5, 2, 0, 0, &[], false, Dispatch(3)),
            (2, 2, 0, 0, &[], false, Dispatch(1)),
            (1, 4, 0, 0, &[], false, Dispatch(1)),
            (3, 1, 0, 10, &[], false, due),
            (3, 1, 10, 10, &[], false, Dispatch(3)),
            (8, 1, 0, 10, &[], false, Dispatch(8)),
            (9, 2, 0, 10, &[], false, Dispatch(5)),
            (3, 1, 0, 10, &[4], false, due),
            (4, 1, 0, 10, &[4], false, Dispatch(4)),
            (7, 1, 0, 10, &[2, 4], false, Dispatch(4)),
            (7, 1, 10, 10, &[2, 4], false, Dispatch(7)),
            (8, 2, 0, 10, &[6], false, Dispatch(4)),
            (3, 1, 0, 10, &[4], true, Dispatch(3)),
        ];
        for &(rows, idle_instances, age, delay, preferred, draining, want) in cases {
            let policy = BatchPolicy {
                max_batch_size: 8,
                preferred_batch_size: preferred.to_vec(),
                max_queue_delay: ms(delay),
            };
            let queue = QueueView { rows, oldest: t0, idle_instances, draining };
            let got = decide(queue, t0 + ms(age), &policy);
            assert_eq!(got, want, "{rows} rows, {idle_instances} idle, age {age} ms, {policy:?}");
        }
    }

    #[test]
    fn a_dispatch_is_never_empty_never_too_large_and_time_always_ends_a_wait() {
        let t0 = Instant::now();
        for rows in 0..40 {
            for idle_instances in 1..5 {
                for max in 1..10 {
                    for preferred in [vec![], vec![1], vec![max], vec![1, max]] {
                        let policy = BatchPolicy {
                            max_batch_size: max,
                            preferred_batch_size: preferred,
                            max_queue_delay: ms(5),
                        };
                        let queue = QueueView { rows, oldest: t0, idle_instances, draining: false };
                        for age in [0, 4, 5, 100] {
                            match decide(queue, t0 + ms(age), &policy) {
                                Decision::Dispatch(n) => assert!(n >= 1 && n <= max && n <= rows),
                                Decision::WaitUntil(t) => assert!(t > t0 + ms(age) && age < 5),
                                Decision::Wait => assert_eq!(rows, 0),
                            }
                        }
                    }
                }
            }
        }
    }
}
