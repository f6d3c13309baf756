//! Versions that were replaced or unloaded: each goes when the last request that chose it is answered.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::Gauge;

use super::Shared;
use super::jobs::Reply;
use crate::scheduler::registry::VersionState;
use crate::scheduler::served::ServedModel;

/// How often the loader looks whether older versions have gone, where it has to wait for them.
const LOOK: Duration = Duration::from_millis(10);

/// What is retired together. When the last version of it has gone, who waits for that is answered.
#[derive(Debug)]
pub(super) struct Generation {
    replies: Vec<Reply>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        for reply in self.replies.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }
}

/// Counts a version as draining while it lives.
struct Draining(Gauge);

impl Draining {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// The generations of each model that have not gone yet.
#[derive(Debug)]
pub(super) struct Retiring {
    shared: Arc<Shared>,
    gauge: Gauge,
    generations: BTreeMap<String, Vec<Weak<Generation>>>,
}

impl Retiring {
    pub fn new(shared: Arc<Shared>, gauge: Gauge) -> Self {
        Self { shared, gauge, generations: BTreeMap::new() }
    }

    /// Waits until at most one older generation of `model` is left, so that quick reloads under slow clients do not
    /// fill the memory. Clients have deadlines for their bodies, so this ends. False where the server stops.
    pub fn wait(&mut self, model: &str) -> bool {
        let Some(generations) = self.generations.get_mut(model) else { return true };
        loop {
            generations.retain(|g| g.strong_count() > 0);
            if generations.len() <= 1 {
                return true;
            }
            if self.shared.stopping() {
                return false;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Takes versions out of service that the registry has no longer; each with the one that has its number now.
    /// Returns at once. `replies` hear when all of it is gone.
    pub fn retire(
        &mut self,
        model: &str,
        versions: Vec<(Arc<ServedModel>, Option<Arc<ServedModel>>)>,
        replies: Vec<Reply>,
    ) {
        let generation = Arc::new(Generation { replies });
        self.generations.retain(|_, list| {
            list.retain(|g| g.strong_count() > 0);
            !list.is_empty()
        });
        if !versions.is_empty() {
            self.generations.entry(model.to_owned()).or_default().push(Arc::downgrade(&generation));
        }
        for (served, successor) in versions {
            let replaced = successor.is_some();
            let version = served.version;
            let retired = served.retire(successor.as_deref());
            drop(successor);
            let (shared, model) = (Arc::clone(&self.shared), model.to_owned());
            let (draining, generation) = (Draining::new(&self.gauge), Arc::clone(&generation));
            let gone = move || {
                retired.join();
                drop(draining);
                if !replaced {
                    shared.registry.update(&model, |entry| {
                        if let Some(state @ VersionState::Unloading) = entry.versions.get_mut(&version) {
                            *state = VersionState::Unloaded;
                        }
                    });
                    shared.changed();
                }
                tracing::info!(model, version, "version unloaded, its memory is free");
                drop(generation);
            };
            // Without a thread nobody waits for it; its own threads end all the same.
            if let Err(e) = std::thread::Builder::new().name("retire".to_owned()).spawn(gone) {
                tracing::error!(error = %e, "no thread to wait for a version that is unloaded");
            }
        }
    }
}
