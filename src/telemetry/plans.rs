//! What the plan cache records.

use metrics::{Counter, Gauge, Label};

use super::metrics::Telemetry;
use super::names;

/// What became of a plan that was asked for; the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanOutcome {
    /// It was in the cache.
    Hit,
    /// It was built.
    Miss,
    /// Another process built it meanwhile.
    Waited,
    /// It was in the cache and damaged: set aside, and a miss.
    Corrupt,
    /// TensorRT refused to load it: set aside.
    Rejected,
    /// It was built and could not be written.
    Unwritable,
}

impl PlanOutcome {
    /// Every outcome, for metrics that must exist at zero.
    pub const ALL: [PlanOutcome; 6] =
        [Self::Hit, Self::Miss, Self::Waited, Self::Corrupt, Self::Rejected, Self::Unwritable];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Waited => "waited",
            Self::Corrupt => "corrupt",
            Self::Rejected => "rejected",
            Self::Unwritable => "unwritable",
        }
    }
}

/// The recording side of the plan cache.
#[derive(Clone)]
pub struct PlanMetrics {
    telemetry: Telemetry,
    outcomes: [Counter; 6],
}

impl std::fmt::Debug for PlanMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanMetrics").finish_non_exhaustive()
    }
}

impl PlanMetrics {
    /// Registers every outcome.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        let outcomes = PlanOutcome::ALL
            .map(|o| telemetry.counter(names::PLAN_CACHE, vec![Label::new("outcome", o.name())]));
        Self { telemetry: telemetry.clone(), outcomes }
    }

    /// Counts an outcome.
    pub fn count(&self, outcome: PlanOutcome) {
        self.outcomes[outcome as usize].increment(1);
    }

    /// How long the latest build took, seconds.
    pub fn build_seconds(&self, model: &str, version: u64) -> Gauge {
        self.telemetry.gauge(names::BUILD_SECONDS, labels(model, version))
    }

    /// How far the build is, 0 to 1; for [`crate::plan::progress::daemon`].
    pub fn build_progress(&self, model: &str, version: u64) -> Gauge {
        self.telemetry.gauge(names::BUILD_PROGRESS, labels(model, version))
    }
}

fn labels(model: &str, version: u64) -> Vec<Label> {
    vec![Label::new("model", model.to_owned()), Label::new("version", version.to_string())]
}
