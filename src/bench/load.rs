//! One run: threads, connections and lanes against one server.
//!
//! Each thread has a runtime of its own, its connections and its tally: nothing is shared on the way of a request but
//! two counters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use super::args::{Arrivals, Order};
use super::exchange::{Answer, Lane, Link, Reading};
use super::failure::{Failure, Kind};
use super::order::Picker;
use super::pace::{Bounds, Paced, Schedule, pace};
use super::request::Prepared;
use super::tally::{Moments, Tally};
use super::target::Target;

/// How long a lane waits after a connection failed, the first time; twice as long each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Of the threads that send.
const THREAD_NAME: &str = "bench";

/// A server and the requests that it is sent.
#[derive(Debug, Clone)]
pub struct Server {
    /// What it is called in tables.
    pub name: String,
    /// Where it is.
    pub target: Arc<Target>,
    /// One for each image, or for each `--batch` of them.
    pub requests: Arc<[Prepared]>,
    /// How its answers are read.
    pub reading: Reading,
}

/// How a server is loaded.
#[derive(Debug, Clone)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Requests at a time on each.
    pub streams: usize,
    /// Threads that send.
    pub threads: usize,
    /// Requests a second in an open loop.
    pub rate: Option<f64>,
    /// When they are due.
    pub arrivals: Arrivals,
    /// Requests that may wait for a lane.
    pub backlog: usize,
    /// How long is measured.
    pub duration: Option<Duration>,
    /// How many requests are measured.
    pub requests: Option<u64>,
    /// Load before that.
    pub warmup: Duration,
    /// Order of the requests.
    pub order: Order,
    /// Of order and arrivals.
    pub seed: u64,
    /// Whether every request is kept.
    pub log: bool,
}

/// What goes on, for whoever shows it, and the way to end it.
#[derive(Debug)]
pub struct Live {
    /// Good answers so far, warm-up included.
    pub ok: AtomicU64,
    /// Failed requests so far.
    pub failed: AtomicU64,
    /// No further request is sent once this is set.
    stop: AtomicBool,
    /// What is on its way is given up, too.
    cut: watch::Sender<bool>,
    /// Set when every lane has tried to connect and the load starts.
    bounds: watch::Sender<Option<Bounds>>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            cut: watch::Sender::new(false),
            bounds: watch::Sender::new(None),
        }
    }
}

impl Live {
    /// Ends the run early: no further request is sent.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Gives up what is on its way, after [`Self::stop`].
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// When the load started, if it has.
    pub fn started(&self) -> Option<Instant> {
        self.bounds.borrow().map(|b| b.start)
    }

    /// Whether it was ended early.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a run gave.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Everything counted.
    pub tally: Tally,
    /// Good answers a second.
    pub rate: f64,
    /// How long was measured.
    pub seconds: f64,
    /// When the measurement began.
    pub began: SystemTime,
    /// In an open loop.
    pub paced: Option<Paced>,
}

/// What the lanes of a run share.
struct Run {
    server: Server,
    load: Load,
    live: Arc<Live>,
    /// Requests of the measurement handed out, where their number ends it.
    taken: AtomicU64,
    /// Hash of the first answer to each request; 0 for none yet.
    first: Vec<AtomicU64>,
    /// When each request is due, in an open loop.
    due: Option<Mutex<mpsc::Receiver<Instant>>>,
}

/// Loads `server`; blocking, and ends by itself.
///
/// # Errors
/// The system has no thread or no runtime to give.
pub fn run(server: &Server, load: &Load, live: &Arc<Live>) -> std::io::Result<Measured> {
    let (due, backlog) = match load.rate {
        Some(_) => {
            let (sender, receiver) = mpsc::channel(load.backlog);
            (Some(sender), Some(Mutex::new(receiver)))
        }
        None => (None, None),
    };
    let first = if server.reading.verify { server.requests.len() } else { 0 };
    let run = Arc::new(Run {
        server: server.clone(),
        load: load.clone(),
        live: Arc::clone(live),
        taken: AtomicU64::new(0),
        first: (0..first).map(|_| AtomicU64::new(0)).collect(),
        due: backlog,
    });
    let threads = load.threads.min(load.connections);
    let (connected, all_connected) = std::sync::mpsc::sync_channel(threads);
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        for thread in 0..threads {
            let (run, connected) = (Arc::clone(&run), connected.clone());
            let share = load.connections / threads + usize::from(thread < load.connections % threads);
            let started =
                tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                    let builder = std::thread::Builder::new().name(THREAD_NAME.to_owned());
                    builder.spawn_scoped(scope, move || {
                        let tasks = LocalSet::new();
                        runtime.block_on(tasks.run_until(work(&run, thread, share, connected)))
                    })
                });
            // Those that have started would wait for the others.
            workers.push(started.inspect_err(|_| live.cut())?);
        }
        drop(connected);
        for _ in 0..threads {
            // Fails where a worker has panicked, which joining it says.
            let _ = all_connected.recv();
        }
        let bounds = load.bounds(Instant::now());
        let began = SystemTime::now() + load.warmup;
        live.bounds.send_replace(Some(bounds));
        let paced = due.map(|due| {
            let schedule = Schedule::new(load.rate.unwrap_or(1.0), load.arrivals, load.seed);
            pace(schedule, &bounds, &due, &live.stop)
        });
        let mut tally = Tally::default();
        for worker in workers {
            match worker.join() {
                Ok(counted) => tally.merge(&counted),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        if let Some(paced) = &paced {
            tally.not_sent(paced.refused, "the backlog was full; --max-backlog is its bound");
        }
        Ok(Measured::new(tally, paced, load, began))
    })
}

impl Load {
    fn bounds(&self, start: Instant) -> Bounds {
        let begin = start + self.warmup;
        Bounds { start, begin, end: self.duration.map(|d| begin + d), requests: self.requests }
    }
}

impl Measured {
    /// Rates: in a closed loop the sum of the lanes' own, so that one that waits long for its last answer does
    /// not lower the others'; in an open loop by the time until the last answer, or until the schedule's end if that is later.
    fn new(tally: Tally, paced: Option<Paced>, load: &Load, began: SystemTime) -> Self {
        let last = tally.last.as_secs_f64();
        let planned = match (&paced, load.rate, load.duration) {
            (Some(paced), Some(rate), None) => paced.due as f64 / rate,
            (Some(_), _, Some(duration)) if !tally.stopped => duration.as_secs_f64(),
            _ => 0.0,
        };
        let seconds = last.max(planned);
        let rate = match &paced {
            Some(_) if seconds > 0.0 => tally.ok as f64 / seconds,
            Some(_) => 0.0,
            None => tally.lane_rate,
        };
        Self { tally, rate, seconds, began, paced }
    }
}

/// The lanes of one thread, to their end or until they are cut off.
async fn work(
    run: &Arc<Run>,
    thread: usize,
    connections: usize,
    connected: std::sync::mpsc::SyncSender<()>,
) -> Tally {
    let opened = Rc::new(Cell::new(0));
    let load = &run.load;
    let picker = Picker::new(run.server.requests.len(), load.order, load.seed, thread, load.threads);
    let own = Own {
        run: Arc::clone(run),
        tally: Rc::default(),
        picker: Rc::new(RefCell::new(picker)),
        waiting: Rc::default(),
    };
    let mut lanes = JoinSet::new();
    let mut ready = JoinSet::new();
    for _ in 0..connections {
        let link = Rc::new(Link::new(&run.server.target, &opened));
        for _ in 0..run.load.streams {
            let mut lane = Lane::new(&link, run.server.reading);
            ready.spawn_local(async move {
                // What cannot be connected fails as the first request of its lane.
                let _ = lane.connect().await;
                lane
            });
        }
    }
    let mut cut = run.live.cut.subscribe();
    let work = async {
        let mut connected_lanes = Vec::with_capacity(ready.len());
        while let Some(lane) = ready.join_next().await {
            connected_lanes.push(joined(lane));
        }
        let _ = connected.send(());
        let mut started = run.live.bounds.subscribe();
        let bounds = started.wait_for(Option::is_some).await.ok().and_then(|b| *b);
        let Some(bounds) = bounds else { return };
        for lane in connected_lanes {
            let own = own.clone();
            lanes.spawn_local(async move {
                if own.run.due.is_some() {
                    own.open(lane, &bounds).await
                } else {
                    own.closed(lane, &bounds).await
                }
            });
        }
        while let Some(ended) = lanes.join_next().await {
            joined(ended);
        }
    };
    tokio::select! {
        () = work => {}
        _ = cut.wait_for(|cut| *cut) => {}
    }
    let mut tally = own.tally.take();
    tally.opened = opened.get();
    tally.cut = own.waiting.get();
    tally.stopped = run.live.stopped();
    tally
}

/// What a task gave; its panic goes on here.
fn joined<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// What the lanes of a thread share.
#[derive(Clone)]
struct Own {
    run: Arc<Run>,
    tally: Rc<RefCell<Tally>>,
    picker: Rc<RefCell<Picker>>,
    /// Measured requests on their way.
    waiting: Rc<Cell<u64>>,
}

impl Own {
    /// Sends one request after the other, as soon as the last is answered.
    async fn closed(&self, mut lane: Lane, bounds: &Bounds) {
        let mut pause = FIRST_PAUSE;
        let mut span: Option<(Instant, Instant, u64)> = None;
        while !self.run.live.stopped() {
            let now = Instant::now();
            if bounds.end.is_some_and(|end| now >= end) {
                break;
            }
            let measured = now >= bounds.begin;
            if measured
                && let Some(limit) = bounds.requests
                && self.run.taken.fetch_add(1, Ordering::Relaxed) >= limit
            {
                break;
            }
            let (kind, done) = self.request(&mut lane, now, measured.then_some(bounds.begin)).await;
            if measured {
                let (begin, _, ok) = span.unwrap_or((now, done, 0));
                span = Some((begin, done, ok + u64::from(kind.is_none())));
            }
            if kind == Some(Kind::Connect) {
                // Nobody is there: asking again at once would only heat this machine.
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
        }
        if let Some((begin, done, ok)) = span {
            let seconds = done.saturating_duration_since(begin).as_secs_f64();
            self.tally.borrow_mut().lane_rate += ok as f64 / seconds.max(1e-6);
        }
    }

    /// Takes the next request that is due, or waits for one.
    async fn open(&self, mut lane: Lane, bounds: &Bounds) {
        let Some(backlog) = &self.run.due else { return };
        loop {
            let due = backlog.lock().await.recv().await;
            let Some(due) = due else { return };
            if self.run.live.stopped() {
                return;
            }
            let begin = (due >= bounds.begin).then_some(bounds.begin);
            let waited = due.elapsed();
            if waited < self.run.server.reading.timeout {
                self.request(&mut lane, due, begin).await;
            } else if let Some(begin) = begin {
                let mut tally = self.tally.borrow_mut();
                tally.not_sent(1, "it waited longer than --timeout for a connection");
                self.run.live.failed.fetch_add(1, Ordering::Relaxed);
                if self.run.load.log {
                    let now = Instant::now();
                    tally.samples.add(begin, Moments { due, sent: now, done: now }, Some(Kind::NotSent));
                }
            }
        }
    }

    /// Sends one and counts it, in the measurement where that has begun.
    async fn request(
        &self,
        lane: &mut Lane,
        due: Instant,
        begin: Option<Instant>,
    ) -> (Option<Kind>, Instant) {
        let index = self.picker.borrow_mut().next();
        let prepared = &self.run.server.requests[index];
        self.waiting.set(self.waiting.get() + u64::from(begin.is_some()));
        let sent = if self.run.due.is_some() { Instant::now() } else { due };
        let mut result = lane.exchange(prepared).await;
        let done = Instant::now();
        self.waiting.set(self.waiting.get() - u64::from(begin.is_some()));
        if let (Ok(answer), Some(first)) = (&result, self.run.first.get(index)) {
            result = same(first, *answer);
        }
        let live = &self.run.live;
        let kind = result.as_ref().err().map(|failure| failure.kind);
        let counter = if kind.is_none() { &live.ok } else { &live.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut tally = self.tally.borrow_mut();
        let Some(begin) = begin else {
            tally.warmup += 1;
            return (kind, done);
        };
        if self.run.due.is_some() {
            tally.left(due, sent);
        }
        let moments = Moments { due, sent, done };
        if self.run.load.log {
            tally.samples.add(begin, moments, kind);
        }
        match result {
            Ok(answer) => tally.good(begin, moments, prepared.body.len(), answer.bytes),
            Err(failure) => tally.bad(begin, done, &failure),
        }
        (kind, done)
    }
}

/// Whether the answer is the first one, or like it.
fn same(first: &AtomicU64, answer: Answer) -> Result<Answer, Failure> {
    // 0 stands for none.
    let hash = answer.hash | 1;
    match first.compare_exchange(0, hash, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Ok(answer),
        Err(seen) if seen == hash => Ok(answer),
        Err(_) => Err(Failure::new(Kind::Differs, "not the bytes of the first answer to the same request")),
    }
}
