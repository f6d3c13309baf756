//! What is recorded of how requests are divided among versions, and of the copies that a shadow version runs.

use std::time::Duration;

use metrics::{Counter, Label};

use super::metrics::Telemetry;
use super::names;

/// Why a copy was given up before it ran; the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// As many copies are in hand as `max_requests` allows.
    Requests,
    /// Copies in hand hold as many bytes as `max_bytes` allows.
    Bytes,
    /// Rows wait in one of the two versions' queues.
    Queue,
    /// The shadow version has no working instance.
    NotReady,
    /// The versions take different inputs.
    Inputs,
}

impl Shed {
    /// Every reason, for metrics that must exist at zero.
    pub const ALL: [Shed; 5] = [Self::Requests, Self::Bytes, Self::Queue, Self::NotReady, Self::Inputs];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::Queue => "queue",
            Self::NotReady => "not_ready",
            Self::Inputs => "inputs",
        }
    }
}

/// Whose latency; the `side` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The version that answered.
    Primary,
    /// The version that ran the copy.
    Shadow,
}

impl Side {
    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Shadow => "shadow",
        }
    }
}

impl Telemetry {
    /// Counts requests that `version` would have answered, had it been ready.
    pub fn traffic_fallbacks(&self, model: &str, version: u64) -> Counter {
        self.counter(names::TRAFFIC_FALLBACKS, labels(model, version))
    }

    /// Sets which share of the requests `[traffic]` gives to a version, 0 to 1.
    pub fn traffic_share(&self, model: &str, version: u64, share: f64) {
        self.gauge(names::TRAFFIC_SHARE, labels(model, version)).set(share);
    }
}

fn labels(model: &str, version: u64) -> Vec<Label> {
    vec![Label::new("model", model.to_owned()), Label::new("version", version.to_string())]
}

/// The recording side of one shadow version. Series are looked up when recorded: only copies come here.
#[derive(Debug, Clone)]
pub struct ShadowMetrics {
    telemetry: Telemetry,
    model: String,
    shadow: String,
}

impl ShadowMetrics {
    /// Of the shadow version `shadow` of `model`.
    #[must_use]
    pub fn new(telemetry: &Telemetry, model: &str, shadow: u64) -> Self {
        Self { telemetry: telemetry.clone(), model: model.to_owned(), shadow: shadow.to_string() }
    }

    fn labels(&self, version: u64) -> Vec<Label> {
        let mut labels = labels(&self.model, version);
        labels.push(Label::new("shadow", self.shadow.clone()));
        labels
    }

    fn with(&self, version: u64, more: &[(&'static str, &str)]) -> Vec<Label> {
        let mut labels = self.labels(version);
        labels.extend(more.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())));
        labels
    }

    /// Makes the reasons for shedding copies of what `version` answers exist at zero.
    pub fn register(&self, version: u64) {
        for why in Shed::ALL {
            let labels = self.with(version, &[("reason", why.name())]);
            self.telemetry.counter(names::SHADOW_SHED, labels).increment(0);
        }
    }

    /// Counts a copy that was given up before it ran.
    pub fn shed(&self, version: u64, why: Shed) {
        let labels = self.with(version, &[("reason", why.name())]);
        self.telemetry.counter(names::SHADOW_SHED, labels).increment(1);
    }

    /// Counts a copy that failed, or an output that cannot be compared.
    pub fn failed(&self, version: u64, reason: &'static str) {
        let labels = self.with(version, &[("reason", reason)]);
        self.telemetry.counter(names::SHADOW_ERRORS, labels).increment(1);
    }

    /// Records how long a request took on one of the two sides, from its queue to its result.
    pub fn took(&self, version: u64, side: Side, took: Duration) {
        let labels = self.with(version, &[("side", side.name())]);
        self.telemetry.histogram(names::SHADOW_SECONDS, labels).record(took);
    }

    /// Records the cosine between a row of an output on both sides.
    pub fn cosine(&self, version: u64, output: &str, cosine: f64) {
        let labels = self.with(version, &[("output", output)]);
        self.telemetry.histogram(names::SHADOW_COSINE, labels).record(cosine);
    }

    /// Counts a row by whether both sides say the same: the class on top, or the same whole numbers.
    pub fn agrees(&self, version: u64, output: &str, agree: bool) {
        let agree = if agree { "true" } else { "false" };
        let labels = self.with(version, &[("output", output), ("agree", agree)]);
        self.telemetry.counter(names::SHADOW_AGREEMENT, labels).increment(1);
    }
}
