//! Which models and versions there are, and in which state.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::served::ServedModel;
use super::traffic::{Target, Traffic};
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
    /// Which of them answers a request.
    pub traffic: Arc<Traffic>,
}

impl Entry {
    /// A model with these versions, in place of what `before` holds: requests in hand keep that.
    #[must_use]
    pub fn new(
        config: Arc<ModelConfig>,
        versions: BTreeMap<u64, VersionState>,
        before: Option<&Self>,
    ) -> Self {
        let traffic = Arc::new(Traffic::new(&config, &versions, before.map(|b| &*b.traffic)));
        Self { config, versions, traffic }
    }
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
            let before = models.get(&config.name);
            let mut versions = before.map_or_else(BTreeMap::new, |b| b.versions.clone());
            versions.insert(version, state.clone());
            let entry = Entry::new(Arc::clone(config), versions, before);
            models.insert(config.name.clone(), entry);
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
        let models = self.models.load();
        let entry = entry(&models, model)?;
        let served = entry.find(version)?;
        let traffic = Arc::clone(&entry.traffic);
        Ok(if version.is_some() { Target::named(traffic, served) } else { Target::any(traffic, served) })
    }

    /// The version that is meant where no request is answered: the one it names, or the highest that is ready of
    /// those that answer requests which name none.
    ///
    /// # Errors
    /// `UnknownModel` or `UnknownVersion`, naming those that exist; `NotReady` with the reason.
    pub fn find(&self, model: &str, version: Option<&str>) -> Result<Arc<ServedModel>, InferError> {
        entry(&self.models.load(), model)?.find(version)
    }
}

fn entry<'a>(models: &'a BTreeMap<String, Entry>, model: &str) -> Result<&'a Entry, InferError> {
    models.get(model).ok_or_else(|| {
        let names = models.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        InferError::new(
            ErrorKind::UnknownModel,
            format!("unknown model \"{}\"; the models here are: {names}", shorten(model)),
        )
    })
}

impl Entry {
    fn find(&self, version: Option<&str>) -> Result<Arc<ServedModel>, InferError> {
        let model = &self.config.name;
        let state = match version {
            Some(text) => repository::version(text).and_then(|v| self.versions.get(&v)).ok_or_else(|| {
                let versions = self.versions.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
                InferError::new(
                    ErrorKind::UnknownVersion,
                    format!(
                        "unknown version \"{}\" of model \"{model}\"; its versions are: {versions}",
                        shorten(text)
                    ),
                )
            })?,
            None => {
                if let Some(served) = self.traffic.highest() {
                    return Ok(Arc::clone(served));
                }
                // None is ready: the highest says why.
                let highest = self.versions.iter().rev().find(|(v, _)| self.traffic.answers(**v));
                highest.map(|(_, state)| state).ok_or_else(|| {
                    let text = format!("model \"{model}\" has no version that answers");
                    InferError::new(ErrorKind::UnknownVersion, text)
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
