//! The bounded queue of one model version: requests push rows, instances pull batches.
//!
//! Instances pull under one short lock instead of a scheduler thread pushing to them: the batch is formed by
//! whoever is about to run it, so a row wakes exactly one thread. True capacity: `capacity` rows wait, and each
//! instance holds its depth of batches in hand.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batcher::{BatchPolicy, Decision, QueueView, decide};
use super::request::{Row, Shared};
use crate::error::{ErrorKind, InferError};
use crate::telemetry::metrics::ModelMetrics;

/// How long a throughput measurement takes before it counts.
const RATE_WINDOW: Duration = Duration::from_millis(500);
/// Longest `Retry-After` that is advised.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How often an instance with a batch in hand asks its device by itself: one that has broken tells nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What an instance does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Runs the batch that it was given.
    Batch,
    /// Collects its oldest batch in hand.
    Collect,
    /// Ends: there will be no batch any more.
    Closed,
}

/// Asks an instance whether its oldest batch in hand is done; `true` asks the device as well.
pub(super) type Finished<'a> = dyn FnMut(bool) -> bool + 'a;

pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes instances without work.
    ready: Condvar,
    /// Wakes instances with a batch in hand and room for another.
    prefetch: Condvar,
    policy: BatchPolicy,
    capacity: usize,
    metrics: Arc<ModelMetrics>,
}

struct State {
    /// One lane for each priority level, most urgent first; each in order of arrival.
    lanes: Vec<VecDeque<Row>>,
    len: usize,
    /// Instances without work.
    idle: usize,
    /// Instances with a batch in hand that wait for another, or for the first to be done.
    prefetching: usize,
    /// The server is shutting down: no row waits for company any more.
    draining: bool,
    /// Nothing is admitted or worked on any more, for this reason; the first one stays.
    closed: Option<InferError>,
    /// No row expires before this time, so that nobody has to look.
    next_deadline: Option<Instant>,
    /// Whether rows of different shapes can meet here.
    mixed_shapes: bool,
    rate: DrainRate,
}

/// Rows that the instances work off, each second, as an exponential average over windows in which none was idle:
/// otherwise a quiet hour would look like a slow engine.
#[derive(Debug, Default)]
struct DrainRate {
    window_start: Option<Instant>,
    rows: usize,
    per_second: Option<f64>,
}

impl DrainRate {
    fn add(&mut self, rows: usize, now: Instant) {
        let Some(start) = self.window_start else {
            self.window_start = Some(now);
            return;
        };
        self.rows += rows;
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= RATE_WINDOW {
            let measured = self.rows as f64 / elapsed.as_secs_f64();
            self.per_second = Some(self.per_second.map_or(measured, |old| 0.5 * old + 0.5 * measured));
            self.window_start = Some(now);
            self.rows = 0;
        }
    }

    /// An instance has nothing to do: what was counted so far says nothing.
    fn idle(&mut self) {
        self.window_start = None;
        self.rows = 0;
    }

    /// Time to work off `rows`, in whole seconds, since `Retry-After` has no finer unit.
    fn time_for(&self, rows: usize) -> Duration {
        let seconds = self.per_second.filter(|r| *r > 0.0).map_or(1.0, |r| (rows as f64 / r).ceil());
        Duration::from_secs_f64(seconds.clamp(1.0, MAX_RETRY_AFTER.as_secs_f64()))
    }
}

impl Queue {
    pub fn new(
        policy: BatchPolicy,
        capacity: usize,
        lanes: usize,
        mixed_shapes: bool,
        metrics: Arc<ModelMetrics>,
    ) -> Self {
        let state = State {
            lanes: (0..lanes.max(1)).map(|_| VecDeque::new()).collect(),
            len: 0,
            idle: 0,
            prefetching: 0,
            draining: false,
            closed: None,
            next_deadline: None,
            mixed_shapes,
            rate: DrainRate::default(),
        };
        Self {
            state: Mutex::new(state),
            ready: Condvar::new(),
            prefetch: Condvar::new(),
            policy,
            capacity,
            metrics,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits all rows of a request, or none. `lane` 0 is the most urgent.
    pub fn push(&self, rows: impl ExactSizeIterator<Item = Row>, lane: usize) -> Result<(), InferError> {
        let count = rows.len();
        let wake = {
            let mut state = self.lock();
            if let Some(reason) = &state.closed {
                return Err(reason.clone());
            }
            if state.len + count > self.capacity {
                let mut error = InferError::new(
                    ErrorKind::QueueFull,
                    format!("queue full: {} of max_queue_size {} rows are waiting", state.len, self.capacity),
                );
                error.retry_after = Some(state.rate.time_for(state.len + count - self.capacity));
                return Err(error);
            }
            let lane = lane.min(state.lanes.len() - 1);
            for row in rows {
                if let Some(deadline) = row.request.deadline {
                    state.next_deadline = Some(state.next_deadline.map_or(deadline, |d| d.min(deadline)));
                }
                state.lanes[lane].push_back(row);
            }
            state.len += count;
            self.metrics.set_pending(state.len);
            // What computes already takes more only where nobody is idle.
            if state.idle == 0 && state.prefetching > 0 {
                self.prefetch.notify_one();
            }
            state.idle.min(count)
        };
        for _ in 0..wake {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// A batch in hand is done: whoever waits with one looks.
    pub fn wake(&self) {
        // Taken and let go: a thread that has just looked is now waiting, or will look again.
        drop(self.lock());
        self.prefetch.notify_all();
    }

    /// Blocks until there is a batch, which lands in `batch`. An instance with a batch in hand gives `in_hand`: it
    /// gets another only where no instance is idle, and stops waiting when the one in hand is done.
    pub fn take(&self, batch: &mut Vec<Row>, mut in_hand: Option<&mut Finished<'_>>) -> Taken {
        let mut expired = Vec::new();
        let prefetching = in_hand.is_some();
        let mut state = self.lock();
        *state.waiting(prefetching) += 1;
        let taken = loop {
            let now = Instant::now();
            if in_hand.as_mut().is_some_and(|finished| finished(false)) {
                break Taken::Collect;
            }
            state.drop_expired(now, &mut expired);
            if !expired.is_empty() {
                // Answering them takes their requests' locks: not under this one.
                self.metrics.set_pending(state.len);
                drop(state);
                for row in expired.drain(..) {
                    row.request.fail(row.index, row.request.expired());
                }
                state = self.lock();
                continue;
            }
            if state.closed.is_some() {
                break Taken::Closed;
            }
            let decision = if prefetching && state.idle > 0 {
                Decision::Wait
            } else {
                decide(state.view(now), now, &self.policy)
            };
            let timeout = match decision {
                Decision::Dispatch(rows) => {
                    state.pop(rows, batch);
                    self.metrics.set_pending(state.len);
                    self.pass_on(&state, prefetching);
                    break Taken::Batch;
                }
                Decision::Wait => None,
                Decision::WaitUntil(until) => Some(until.saturating_duration_since(now)),
            };
            match &mut in_hand {
                None if timeout.is_none() => {
                    state.rate.idle();
                    state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                None => {
                    let timeout = timeout.unwrap_or_default();
                    state = self.ready.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0;
                }
                Some(finished) => {
                    let timeout = timeout.map_or(LOOK_INTERVAL, |t| t.min(LOOK_INTERVAL));
                    let woken = self.prefetch.wait_timeout(state, timeout);
                    let (again, waited) = woken.unwrap_or_else(PoisonError::into_inner);
                    state = again;
                    if waited.timed_out() {
                        // Asking a device is no work to do under the lock.
                        drop(state);
                        let done = finished(true);
                        state = self.lock();
                        if done {
                            break Taken::Collect;
                        }
                    }
                }
            }
        };
        *state.waiting(prefetching) -= 1;
        taken
    }

    /// Wakes another instance where rows are left: they may be more than those that a push has woken take.
    fn pass_on(&self, state: &State, prefetching: bool) {
        if state.len == 0 {
            return;
        }
        let (idle, busy) =
            (state.idle - usize::from(!prefetching), state.prefetching - usize::from(prefetching));
        if idle > 0 {
            self.ready.notify_one();
        } else if busy > 0 {
            self.prefetch.notify_one();
        }
    }

    /// Takes a request's rows out again: its client left, or its deadline passed.
    pub fn remove(&self, request: &Arc<Shared>) {
        request.cancel();
        let mut state = self.lock();
        for lane in &mut state.lanes {
            lane.retain(|row| !Arc::ptr_eq(&row.request, request));
        }
        state.len = state.lanes.iter().map(VecDeque::len).sum();
        self.metrics.set_pending(state.len);
    }

    /// Tells how many rows an instance has worked off.
    pub fn drained(&self, rows: usize, now: Instant) {
        self.lock().rate.add(rows, now);
    }

    /// Dispatches whatever waits and comes at once: a delay in the hope for company would delay the exit.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.ready.notify_all();
        self.prefetch.notify_all();
    }

    /// Admits nothing more and fails what waits with `error`.
    pub fn close(&self, error: &InferError) {
        let rows: Vec<Row> = {
            let mut state = self.lock();
            state.closed.get_or_insert_with(|| error.clone());
            state.len = 0;
            self.metrics.set_pending(0);
            state.lanes.iter_mut().flat_map(std::mem::take).collect()
        };
        for row in rows {
            row.request.fail(row.index, error.clone());
        }
        self.ready.notify_all();
        self.prefetch.notify_all();
    }

    /// Rows that wait.
    pub fn len(&self) -> usize {
        self.lock().len
    }
}

impl State {
    fn waiting(&mut self, prefetching: bool) -> &mut usize {
        if prefetching { &mut self.prefetching } else { &mut self.idle }
    }

    fn head(&self) -> Option<&Row> {
        self.lanes.iter().find_map(VecDeque::front)
    }

    fn view(&self, now: Instant) -> QueueView {
        let rows = match self.head() {
            Some(head) if self.mixed_shapes => {
                let key = head.request.shape_key;
                self.lanes.iter().flatten().filter(|r| r.request.shape_key == key).count()
            }
            _ => self.len,
        };
        // The oldest row decides how long anybody waits, whichever lane it is in.
        let oldest = self.lanes.iter().filter_map(|l| l.front()).map(|r| r.enqueued).min().unwrap_or(now);
        QueueView { rows, oldest, idle_instances: self.idle.max(1), draining: self.draining }
    }

    /// Moves the first `rows` that can share a batch with the head, most urgent lane first.
    fn pop(&mut self, rows: usize, batch: &mut Vec<Row>) {
        let Some(key) = self.head().map(|r| r.request.shape_key) else { return };
        for lane in &mut self.lanes {
            if !self.mixed_shapes {
                let n = lane.len().min(rows - batch.len());
                batch.extend(lane.drain(..n));
                continue;
            }
            let mut at = 0;
            while at < lane.len() && batch.len() < rows {
                if lane[at].request.shape_key == key {
                    batch.extend(lane.remove(at));
                } else {
                    at += 1;
                }
            }
        }
        self.len -= batch.len();
    }

    fn drop_expired(&mut self, now: Instant, expired: &mut Vec<Row>) {
        if self.next_deadline.is_none_or(|d| now < d) {
            return;
        }
        self.next_deadline = None;
        for lane in &mut self.lanes {
            let mut kept = VecDeque::with_capacity(lane.len());
            for row in lane.drain(..) {
                match row.request.deadline {
                    Some(deadline) if now >= deadline => expired.push(row),
                    deadline => {
                        if let Some(deadline) = deadline {
                            self.next_deadline =
                                Some(self.next_deadline.map_or(deadline, |d| d.min(deadline)));
                        }
                        kept.push_back(row);
                    }
                }
            }
            *lane = kept;
        }
        self.len = self.lanes.iter().map(VecDeque::len).sum();
    }
}
