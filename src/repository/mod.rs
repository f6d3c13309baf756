//! The model repository while it serves: what is loaded, and how that changes.
//!
//! One thread, the loader, does every load and unload, one after another; whoever asks for one waits for its
//! answer. A model is loaded beside the versions that serve, then one swap of the registry's entry puts it in
//! service. What it replaces is retired: requests that have it finish on it, and then its memory is freed.

mod fingerprint;
mod jobs;
mod loader;
mod retire;
mod watcher;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use self::jobs::{Jobs, Work};
use self::loader::Loader;
use crate::cli::ControlMode;
use crate::config::Config;
use crate::error::{ErrorKind, InferError, shorten};
use crate::model::repository::{folder_names, is_model_name};
use crate::scheduler::registry::{Attempt, Entry, Failure, NO_INSTANCE, Registry, VersionState};
use crate::telemetry::metrics::Telemetry;

/// Longest that the answer to an unload waits for requests in hand, and for the memory to be free: a client that
/// sends its picture slowly can take that long.
const UNLOAD_WAIT: Duration = Duration::from_secs(30);

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
    /// `file:<version>/<file>`: path and content. No content is needed to be refused.
    pub files: Vec<(String, Bytes)>,
}

/// What manager, loader and watcher share.
#[derive(Debug)]
struct Shared {
    registry: Arc<Registry>,
    changes: watch::Sender<u64>,
    jobs: Jobs,
    stopping: Arc<AtomicBool>,
    /// True once no further load is begun or waited for.
    stop: watch::Sender<bool>,
}

impl Shared {
    /// Says that a state has changed.
    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// What is known once the server has been configured.
#[derive(Debug)]
struct Settings {
    mode: ControlMode,
    root: PathBuf,
    watcher: watcher::Waker,
}

/// Loads, replaces and unloads models while others serve.
#[derive(Debug)]
pub struct Manager {
    shared: Arc<Shared>,
    settings: OnceLock<Settings>,
}

/// What the start of the loader gives to wait for.
#[derive(Debug)]
pub struct Started {
    /// Every model that was asked for at start has been tried. With `--model-control-mode none`, the first that
    /// cannot be served; in the other modes such a model is in the index, with its reason.
    pub loaded: oneshot::Receiver<Result<(), NotServed>>,
    /// The loader has ended; the sender is dropped then.
    pub ended: oneshot::Receiver<()>,
}

/// A model that cannot be served.
#[derive(Debug)]
pub struct NotServed {
    /// Its name.
    pub model: String,
    /// Which version, and why.
    pub failure: Failure,
}

impl Manager {
    /// The manager of what `registry` holds. It loads nothing before [`start`](Self::start).
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        let shared = Shared {
            registry,
            changes: watch::Sender::new(0),
            jobs: Jobs::default(),
            stopping: Arc::default(),
            stop: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared), settings: OnceLock::new() }
    }

    /// Starts the loader, and with it the load of what was asked for at start.
    ///
    /// # Errors
    /// The system's, where there is no thread to be had.
    pub fn start(&self, config: &Config, telemetry: &Telemetry) -> std::io::Result<Started> {
        let (waker, woken) = watcher::channel();
        let mode = config.args.model_control_mode;
        let root = config.args.model_repository.clone();
        let _ = self.settings.set(Settings { mode, root, watcher: waker.clone() });
        let (loaded, heard) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let mut loader = Loader::new(config, telemetry, Arc::clone(&self.shared));
        loader.announce();
        std::thread::Builder::new().name("loader".to_owned()).spawn(move || {
            loader.run(loaded, (woken, waker));
            drop(end);
        })?;
        Ok(Started { loaded: heard, ended })
    }

    /// Gives up what is being loaded, at the next step where that can be done, and answers those who wait.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.stop.send_replace(true);
        self.shared.jobs.close();
        if let Some(settings) = self.settings.get() {
            settings.watcher.wake();
        }
    }

    /// Every model and version of the repository, in order; with `ready`, those that serve. Reads the repository's
    /// folder, which is quick and blocks.
    #[must_use]
    pub fn index(&self, ready: bool) -> Vec<IndexEntry> {
        let models = self.shared.registry.models();
        let mut entries: Vec<IndexEntry> =
            models.iter().flat_map(|(name, entry)| lines(name, entry)).collect();
        if let Some(settings) = self.settings.get() {
            let never = folder_names(&settings.root).unwrap_or_default().into_iter();
            let never = never.filter(|n| is_model_name(n) && !models.contains_key(n));
            entries.extend(never.map(|name| line(&name, None, "", "")));
        }
        entries.retain(|e| !ready || e.state == READY);
        // Versions come by number already.
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    /// Loads a model, or loads it again if anything in its folder has changed; returns when it serves. What served
    /// before serves until then, and goes on if the load fails. A load of the same model that waits already is
    /// joined. It goes on where the caller does not wait for it.
    ///
    /// # Errors
    /// `ControlMode` where the mode does not allow it, `Unimplemented` for parameters, `UnknownModel`, `LoadFailed`
    /// with the reason, `Overloaded`, `Draining`.
    pub async fn load(&self, model: &str, parameters: LoadParameters) -> Result<(), InferError> {
        self.explicit(model, "load")?;
        if parameters != LoadParameters::default() {
            let text = "the load parameters config and file:… are not taken: the repository's own files say how \
                        a model is served; change its model.toml or its files there, then load it";
            return Err(InferError::new(ErrorKind::Unimplemented, text));
        }
        self.wait(self.shared.jobs.push(model, Work::Load)?).await
    }

    /// Takes a model out of service: no new request is admitted, those in hand are answered. Returns when its memory
    /// is free, or after 30 s; it is UNLOADING in the index until then. A model that is not loaded is no error.
    ///
    /// # Errors
    /// `ControlMode` where the mode does not allow it, `UnknownModel`, `Overloaded`, `Draining`.
    pub async fn unload(&self, model: &str) -> Result<(), InferError> {
        self.explicit(model, "unload")?;
        let answer = self.wait(self.shared.jobs.push(model, Work::Unload)?);
        tokio::time::timeout(UNLOAD_WAIT, answer).await.unwrap_or(Ok(()))
    }

    /// Counts up whenever a version's state has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn explicit(&self, model: &str, what: &str) -> Result<(), InferError> {
        match self.settings.get() {
            Some(settings) if settings.mode == ControlMode::Explicit && is_model_name(model) => Ok(()),
            Some(settings) if settings.mode == ControlMode::Explicit => Err(unknown(model)),
            _ => {
                let text = format!(
                    "models cannot be {what}ed by request here; start with --model-control-mode explicit for that"
                );
                Err(InferError::new(ErrorKind::ControlMode, text))
            }
        }
    }

    async fn wait(&self, answer: oneshot::Receiver<Result<(), InferError>>) -> Result<(), InferError> {
        let mut stop = self.shared.stop.subscribe();
        let draining = || Err(InferError::new(ErrorKind::Draining, "the server is shutting down"));
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| draining()),
            _ = stop.wait_for(|s| *s) => draining(),
        }
    }
}

fn unknown(model: &str) -> InferError {
    let text = format!("the model repository has no folder for a model \"{}\"", shorten(model));
    InferError::new(ErrorKind::UnknownModel, text)
}

const READY: &str = "READY";
const UNAVAILABLE: &str = "UNAVAILABLE";

/// What the index says of a model.
fn lines(name: &str, entry: &Entry) -> Vec<IndexEntry> {
    let mut lines: Vec<(Option<u64>, &'static str, &str)> = Vec::new();
    for (version, state) in &entry.versions {
        let (state, reason) = match state {
            VersionState::Ready(served) if served.ready() => match &entry.attempt {
                Attempt::Failed(failure) => (READY, failure.why.as_str()),
                Attempt::Settled | Attempt::Loading(_) => (READY, ""),
            },
            VersionState::Ready(_) => (UNAVAILABLE, NO_INSTANCE),
            VersionState::Loading => ("LOADING", ""),
            VersionState::Unloading => ("UNLOADING", ""),
            VersionState::Unloaded => (UNAVAILABLE, "unloaded"),
            VersionState::Unavailable(why) => (UNAVAILABLE, why.as_str()),
        };
        lines.push((Some(*version), state, reason));
    }
    match &entry.attempt {
        Attempt::Settled => {}
        Attempt::Loading(versions) => {
            let new = versions.iter().filter(|v| !entry.versions.contains_key(v));
            lines.extend(new.map(|v| (Some(*v), "LOADING", "")));
        }
        Attempt::Failed(Failure { version: Some(version), why }) => match entry.versions.get(version) {
            None => lines.push((Some(*version), UNAVAILABLE, why)),
            Some(VersionState::Unloaded) => {
                let line = lines.iter_mut().find(|l| l.0 == Some(*version));
                line.into_iter().for_each(|l| l.2 = why);
            }
            Some(_) => {}
        },
        Attempt::Failed(Failure { version: None, why }) => {
            if !entry.serves() {
                lines.push((None, UNAVAILABLE, why));
            }
        }
    }
    lines.sort_by_key(|l| l.0);
    lines.into_iter().map(|(version, state, reason)| line(name, version, state, reason)).collect()
}

fn line(name: &str, version: Option<u64>, state: &'static str, reason: &str) -> IndexEntry {
    let version = version.map_or(String::new(), |v| v.to_string());
    IndexEntry { name: name.to_owned(), version, state, reason: reason.to_owned() }
}
