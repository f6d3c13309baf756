//! What every connection shares: models, metrics, limits, and whether requests are welcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{ErrorKind, InferError};
use crate::repository::Manager;
use crate::scheduler::registry::Registry;
use crate::telemetry::context::Observer;
use crate::telemetry::metrics::Telemetry;

use super::paddle::PaddleVersion;
use super::shared_memory::Regions;

/// Bounds on what a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// Bytes of one body, as sent and after inflation.
    pub max_body_bytes: usize,
    /// Bytes of all bodies held at once.
    pub max_inflight_bytes: usize,
    /// Bytes of one request head.
    pub max_header_bytes: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Files in one multipart body, images in one PaddleServing request.
    pub max_images: usize,
    /// Time to send a request's head, counted from the end of the request before it.
    pub header_read_timeout: Duration,
    /// Time to send a request's body.
    pub request_read_timeout: Duration,
    /// Between two pings to a client of HTTP/2.
    pub keepalive: Duration,
    /// Time to answer a ping.
    pub keepalive_timeout: Duration,
    /// Whether clients of this host may leave tensors in shared memory.
    pub shared_memory: bool,
    /// Whether browsers get the page at `/`.
    pub console: bool,
}

/// Shared by all connections of a server.
#[derive(Debug)]
pub struct ServerState {
    /// Models and their states.
    pub registry: Arc<Registry>,
    /// Loads and unloads them.
    pub repository: Manager,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Access log and traces.
    pub observer: Observer,
    /// Whether requests may change the log's level.
    pub log_control: bool,
    /// Bounds.
    pub limits: HttpLimits,
    /// Which generation of PaddleServing's error numbers and fields is spoken.
    pub paddle: PaddleVersion,
    /// Shared memory that clients of this host have registered.
    pub shared_memory: Regions,
    /// Bytes of bodies in memory.
    pub budget: Arc<Budget>,
    draining: AtomicBool,
    /// Turns true when open connections take no further request.
    closing: watch::Sender<bool>,
    /// `log_id` of PaddleServing's error texts: a running number.
    pub log_id: AtomicUsize,
}

impl ServerState {
    /// The state of a server that has not drained yet.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        telemetry: Telemetry,
        observer: Observer,
        log_control: bool,
        limits: HttpLimits,
        paddle: PaddleVersion,
    ) -> Self {
        let budget = Arc::new(Budget {
            used: AtomicUsize::new(0),
            limit: limits.max_inflight_bytes,
            gauge: telemetry.inflight_bytes.clone(),
        });
        let shared_memory = Regions::new(limits.shared_memory, telemetry.regions.clone());
        Self {
            repository: Manager::new(Arc::clone(&registry)),
            registry,
            telemetry,
            observer,
            log_control,
            limits,
            paddle,
            shared_memory,
            budget,
            draining: AtomicBool::new(false),
            closing: watch::Sender::new(false),
            log_id: AtomicUsize::new(0),
        }
    }

    /// Whether every model is ready and no shutdown has begun.
    #[must_use]
    pub fn ready(&self) -> bool {
        !self.draining() && self.registry.all_ready()
    }

    /// Whether a shutdown has begun.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Turns readiness off for good.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends the streams that take further requests; those that they have taken are answered.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Turns true when [`close`](Self::close) is called.
    #[must_use]
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }
}

/// Bytes that request bodies may take together.
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
    gauge: metrics::Gauge,
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("used", &self.used).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Budget {
    /// Takes `bytes` out of the budget until the reservation is dropped.
    ///
    /// # Errors
    /// `Overloaded`, when the bodies in flight leave no room.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, InferError> {
        let mut reservation = Reservation { budget: Arc::clone(self), bytes: 0 };
        reservation.grow(bytes)?;
        Ok(reservation)
    }
}

/// A part of a [`Budget`].
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Reservation {
    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more.
    ///
    /// # Errors
    /// `Overloaded`, when the bodies in flight leave no room.
    pub fn grow(&mut self, bytes: usize) -> Result<(), InferError> {
        let budget = &self.budget;
        let take = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= budget.limit);
        match budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            Ok(_) => {
                budget.gauge.increment(bytes as f64);
                self.bytes += bytes;
                Ok(())
            }
            Err(used) => {
                let mut error = InferError::new(
                    ErrorKind::Overloaded,
                    format!(
                        "{used} bytes of request bodies are in memory; {bytes} more would pass --max-inflight-bytes {}",
                        budget.limit
                    ),
                );
                error.retry_after = Some(Duration::from_secs(1));
                Err(error)
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.gauge.decrement(self.bytes as f64);
    }
}
