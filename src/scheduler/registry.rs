//! Which models and versions there are, and in which state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Taken out of service: what it has in hand is being answered, then its memory is freed.
    Unloading,
    /// Taken out of service, or replaced by another version, and gone.
    Unloaded,
    /// Not serving, and why.
    Unavailable(String),
}

/// What came of the latest attempt to load a model, where its versions do not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing more to say.
    #[default]
    Settled,
    /// These versions are being loaded beside those that serve.
    Loading(Vec<u64>),
    /// It failed; what served before still does.
    Failed(Failure),
}

/// Why a model could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The version that failed; `None` where the model's folder or `model.toml` is wrong.
    pub version: Option<u64>,
    /// The reason, in a sentence.
    pub why: String,
}

impl Failure {
    /// What failed, for a message: `model "ArcFace" version 2`.
    #[must_use]
    pub fn subject(&self, model: &str) -> String {
        let of = self.version.map_or(String::new(), |v| format!(" version {v}"));
        format!("model \"{model}\"{of}")
    }
}

/// A model and its versions.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its configuration as it is now. A version that was kept while `model.toml` changed was loaded with an older
    /// one, which is its [`ServedModel::config`]; they differ in what no engine sees: the version policy, how
    /// traffic is divided.
    pub config: Arc<ModelConfig>,
    /// Its versions by number.
    pub versions: BTreeMap<u64, VersionState>,
    /// Which of them answers a request.
    pub traffic: Arc<Traffic>,
    /// What the versions do not say.
    pub attempt: Attempt,
    /// Whether readiness waits for it: it was asked for at start, or it has served.
    pub awaited: bool,
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
        let awaited = before.is_some_and(|b| b.awaited);
        Self { config, versions, traffic, attempt: Attempt::Settled, awaited }
    }

    /// Whether a version is in service.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.versions.values().any(|v| matches!(v, VersionState::Ready(_)))
    }

    /// Whether everything that it should serve has a working instance. A load that failed beside a version that
    /// serves takes nothing away.
    fn ready(&self) -> bool {
        let settled = !self.versions.is_empty() || self.attempt == Attempt::Settled;
        settled
            && self.versions.values().all(|v| match v {
                VersionState::Ready(served) => served.ready(),
                VersionState::Unloading | VersionState::Unloaded => true,
                VersionState::Loading | VersionState::Unavailable(_) => false,
            })
    }
}

/// All models, by name. Readers never wait: each change swaps the whole map. There is one writer, the loader.
///
/// A reader must not keep a snapshot across an `await`: it holds every version in it, and the memory of one that was
/// unloaded is freed only when nobody holds it.
#[derive(Debug, Default)]
pub struct Registry {
    models: ArcSwap<BTreeMap<String, Entry>>,
    started: AtomicBool,
}

impl Registry {
    /// A snapshot of everything.
    #[must_use]
    pub fn models(&self) -> Arc<BTreeMap<String, Entry>> {
        self.models.load_full()
    }

    /// Sets everything of one model at once.
    pub fn put(&self, model: &str, entry: &Entry) {
        self.change(|models| {
            models.insert(model.to_owned(), entry.clone());
        });
    }

    /// Changes what is known of one model, if anything is; not what serves, which [`Entry::new`] puts in a whole.
    pub fn update(&self, model: &str, f: impl Fn(&mut Entry)) {
        self.change(|models| {
            if let Some(entry) = models.get_mut(model) {
                f(entry);
            }
        });
    }

    /// Forgets a model.
    pub fn remove(&self, model: &str) {
        self.change(|models| {
            models.remove(model);
        });
    }

    fn change(&self, f: impl Fn(&mut BTreeMap<String, Entry>)) {
        self.models.rcu(|models| {
            let mut models = BTreeMap::clone(models);
            f(&mut models);
            models
        });
    }

    /// Sets the state of one version.
    #[cfg(test)]
    pub fn set(&self, config: &Arc<ModelConfig>, version: u64, state: &VersionState) {
        self.change(|models| {
            let before = models.get(&config.name);
            let mut versions = before.map_or_else(BTreeMap::new, |b| b.versions.clone());
            versions.insert(version, state.clone());
            let entry = Entry::new(Arc::clone(config), versions, before);
            models.insert(config.name.clone(), entry);
        });
    }

    /// Says that every model that was asked for at start has been tried.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether every model that was asked for at start, and every one that has served since and was not unloaded,
    /// is ready.
    #[must_use]
    pub fn all_ready(&self) -> bool {
        self.started.load(Ordering::Acquire)
            && self.models.load().values().filter(|m| m.awaited).all(Entry::ready)
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
                let here = self.versions.iter().filter(|(_, s)| !matches!(s, VersionState::Unloaded));
                let versions = here.map(|(v, _)| v.to_string()).collect::<Vec<_>>().join(", ");
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
                highest.map(|(_, state)| state).ok_or_else(|| match &self.attempt {
                    Attempt::Loading(_) => not_ready(model, LOADING),
                    Attempt::Failed(failure) => not_ready(model, &failure.why),
                    Attempt::Settled => {
                        let text = format!("model \"{model}\" has no version that answers");
                        InferError::new(ErrorKind::UnknownVersion, text)
                    }
                })?
            }
        };
        match state {
            VersionState::Ready(served) if served.ready() => Ok(Arc::clone(served)),
            VersionState::Ready(_) => Err(not_ready(model, NO_INSTANCE)),
            VersionState::Loading => Err(not_ready(model, LOADING)),
            VersionState::Unloading => Err(not_ready(model, "it is being unloaded")),
            VersionState::Unloaded => Err(not_ready(model, "it was unloaded")),
            VersionState::Unavailable(why) => Err(not_ready(model, why)),
        }
    }
}

/// Why a version is not ready that is being loaded.
const LOADING: &str = "it is loading";
/// Why a version is not ready whose instances are all gone.
pub const NO_INSTANCE: &str = "it has no working instance left";

fn not_ready(model: &str, why: &str) -> InferError {
    InferError::new(ErrorKind::NotReady, format!("model \"{model}\" is not ready: {why}"))
}
