//! What the loader records.

use metrics::{Gauge, Label};

use super::metrics::Telemetry;
use super::names;

/// What came of an attempt to load a model; the `outcome` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It serves.
    Success,
    /// It served already, and nothing in its folder had changed.
    Unchanged,
    /// It could not be loaded; what served before still does.
    Failure,
}

impl LoadOutcome {
    /// Every outcome.
    pub const ALL: [LoadOutcome; 3] = [Self::Success, Self::Unchanged, Self::Failure];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Unchanged => "unchanged",
            Self::Failure => "failure",
        }
    }
}

/// The recording side of the loader.
pub struct LoadMetrics {
    telemetry: Telemetry,
    /// Versions out of service that are not gone yet.
    pub draining: Gauge,
}

impl std::fmt::Debug for LoadMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadMetrics").finish_non_exhaustive()
    }
}

impl LoadMetrics {
    /// Registers what has no labels.
    #[must_use]
    pub fn new(telemetry: &Telemetry) -> Self {
        Self { telemetry: telemetry.clone(), draining: telemetry.gauge(names::DRAINING, Vec::new()) }
    }

    /// Counts an attempt to load `model`, which must have a folder in the repository: labels come from there alone.
    pub fn count(&self, model: &str, outcome: LoadOutcome) {
        for of in LoadOutcome::ALL {
            let labels = vec![Label::new("model", model.to_owned()), Label::new("outcome", of.name())];
            let counter = self.telemetry.counter(names::MODEL_LOADS, labels);
            counter.increment(u64::from(of == outcome));
        }
    }

    /// Counts a model that was taken out of service.
    pub fn unloaded(&self, model: &str) {
        let labels = vec![Label::new("model", model.to_owned())];
        self.telemetry.counter(names::MODEL_UNLOADS, labels).increment(1);
    }
}
