//! Which models and versions there are, and in which state.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::served::ServedModel;
use super::traffic::Target;
use crate::error::{ErrorKind, InferError, shorten};
use crate::model::config::ModelConfig;
use crate::model::repository;

/// State of one version, under Triton's repository-index words.
#[derive(Debug, Clone)]
pub enum VersionState {
    /// Being loaded or warmed up.
    Loading,
    /// Serving.
    Ready(Arc<ServedModel>),
    /// Not serving, and why.
    Unavailable(String),
}

/// A model and its versions.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its configuration.
    pub config: Arc<ModelConfig>,
    /// Its versions by number.
    pub versions: BTreeMap<u64, VersionState>,
}

/// All models, by name. Readers never wait: each change swaps the whole map.
#[derive(Debug, Default)]
pub struct Registry {
    models: ArcSwap<BTreeMap<String, Entry>>,
}

impl Registry {
    /// A snapshot of everything.
    #[must_use]
    pub fn models(&self) -> Arc<BTreeMap<String, Entry>> {
        self.models.load_full()
    }

    /// Sets the state of one version.
    pub fn set(&self, config: &Arc<ModelConfig>, version: u64, state: &VersionState) {
        self.models.rcu(|models| {
            let mut models = BTreeMap::clone(models);
            models
                .entry(config.name.clone())
                .or_insert_with(|| Entry { config: Arc::clone(config), versions: BTreeMap::new() })
                .versions
                .insert(version, state.clone());
            models
        });
    }

    /// Whether there is a model and every version of every model is ready.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        let models = self.models.load();
        !models.is_empty()
            && models
                .values()
                .flat_map(|m| m.versions.values())
                .all(|v| matches!(v, VersionState::Ready(s) if s.ready()))
    }

    /// Every version that serves.
    #[must_use]
    pub fn served(&self) -> Vec<Arc<ServedModel>> {
        let models = self.models.load();
        let states = models.values().flat_map(|m| m.versions.values());
        states
            .filter_map(|v| if let VersionState::Ready(s) = v { Some(Arc::clone(s)) } else { None })
            .collect()
    }

    /// The versions that may answer a request.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn target(&self, model: &str, version: Option<&str>) -> Result<Target, InferError> {
        self.find(model, version).map(Target::fixed)
    }

    /// The version that is meant where no request is answered: the one it names, or the highest that is ready.
    ///
    /// # Errors
    /// `UnknownModel` or `UnknownVersion`, naming those that exist; `NotReady` with the reason.
    pub fn find(&self, model: &str, version: Option<&str>) -> Result<Arc<ServedModel>, InferError> {
        let models = self.models.load();
        let Some(entry) = models.get(model) else {
            let names = models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(InferError::new(
                ErrorKind::UnknownModel,
                format!("unknown model \"{}\"; the models here are: {names}", shorten(model)),
            ));
        };
        let state = match version {
            Some(text) => {
                repository::version(text).and_then(|v| entry.versions.get(&v)).ok_or_else(|| {
                    let versions = entry.versions.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
                    InferError::new(
                        ErrorKind::UnknownVersion,
                        format!(
                            "unknown version \"{}\" of model \"{model}\"; its versions are: {versions}",
                            shorten(text)
                        ),
                    )
                })?
            }
            None => {
                let ready = entry.versions.values().rev().find(|v| matches!(v, VersionState::Ready(_)));
                ready.or_else(|| entry.versions.values().next_back()).ok_or_else(|| {
                    InferError::new(ErrorKind::UnknownVersion, format!("model \"{model}\" has no version"))
                })?
            }
        };
        match state {
            VersionState::Ready(served) if served.ready() => Ok(Arc::clone(served)),
            VersionState::Ready(_) => Err(not_ready(model, "it has no working instance left")),
            VersionState::Loading => Err(not_ready(model, "it is loading")),
            VersionState::Unavailable(why) => Err(not_ready(model, why)),
        }
    }
}

fn not_ready(model: &str, why: &str) -> InferError {
    InferError::new(ErrorKind::NotReady, format!("model \"{model}\" is not ready: {why}"))
}
