//! The loader: the one thread that loads, replaces and unloads, one model after another.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::fingerprint::Fingerprint;
use super::jobs::{Job, Reply, Work};
use super::retire::Retiring;
use super::watcher::{Tried, Waker, Watcher, Woken};
use super::{NotServed, Shared, unknown};
use crate::backend::select::Backends;
use crate::cli::ControlMode;
use crate::config::Config;
use crate::error::{ErrorKind, InferError};
use crate::image::Limits;
use crate::model::config::ModelConfig;
use crate::model::repository::{
    self, RepositoryModel, RepositoryVersion, folder_names, is_model_name, read_model,
};
use crate::model::spec::OutputSpec;
use crate::problems::Problems;
use crate::scheduler::registry::{Attempt, Entry, Failure, VersionState};
use crate::scheduler::served::{LoadError, ServedModel};
use crate::telemetry::loads::{LoadMetrics, LoadOutcome};
use crate::telemetry::metrics::Telemetry;

/// What a load that was asked for came to.
enum Done {
    /// It serves.
    Loaded,
    /// It served already, and nothing about it has changed.
    Unchanged,
}

/// Why it came to nothing.
enum Refused {
    /// There is no such folder.
    Unknown,
    /// Its folder changes while it is looked at.
    Changing,
    /// It cannot be served.
    Failed(Failure),
    /// The server is shutting down.
    Stopping,
}

impl Refused {
    fn whole(why: impl ToString) -> Self {
        Self::Failed(Failure { version: None, why: why.to_string() })
    }
}

/// What was seen of a model when it was loaded last.
#[derive(Debug)]
struct Loaded {
    print: Fingerprint,
    /// The folder of each version, and the labels of its outputs, which lie elsewhere.
    versions: BTreeMap<u64, (Option<u64>, Vec<OutputSpec>)>,
}

/// A version that is in the new set, and whether it was in the old one.
struct Candidate {
    version: u64,
    served: Result<Arc<ServedModel>, String>,
    kept: bool,
}

/// Loads and unloads models.
pub(super) struct Loader {
    shared: Arc<Shared>,
    mode: ControlMode,
    root: PathBuf,
    /// What mode `none` loads, as it was read when the configuration was checked.
    read: Vec<RepositoryModel>,
    /// What is asked for at start in the other modes.
    asked: Vec<String>,
    image: Limits,
    poll: Duration,
    settle: Duration,
    backends: Backends,
    telemetry: Telemetry,
    metrics: LoadMetrics,
    loaded: BTreeMap<String, Loaded>,
    /// The folder of each model as it was when it was tried last, whatever came of it.
    tried: Arc<Tried>,
    retiring: Retiring,
    /// Whether it was said that a slower backend serves.
    warned: bool,
}

impl Loader {
    pub fn new(config: &Config, telemetry: &Telemetry, shared: Arc<Shared>) -> Self {
        let args = &config.args;
        let mode = args.model_control_mode;
        let metrics = LoadMetrics::new(telemetry);
        let every = mode == ControlMode::Poll || args.load_model.iter().any(|m| m == "*");
        let asked = match mode {
            ControlMode::None => Vec::new(),
            ControlMode::Poll | ControlMode::Explicit if every => {
                let mut names = folder_names(&args.model_repository).unwrap_or_default();
                names.retain(|n| is_model_name(n));
                names
            }
            ControlMode::Poll | ControlMode::Explicit => args.load_model.clone(),
        };
        Self {
            mode,
            root: args.model_repository.clone(),
            read: config.models.clone(),
            asked,
            image: config.image,
            poll: Duration::from_secs(args.repository_poll_secs),
            settle: Duration::from_millis(args.repository_settle_millis),
            backends: Backends::new(args, telemetry, &shared.stopping),
            telemetry: telemetry.clone(),
            retiring: Retiring::new(Arc::clone(&shared), metrics.draining.clone()),
            metrics,
            loaded: BTreeMap::new(),
            tried: Arc::default(),
            warned: false,
            shared,
        }
    }

    /// Puts what is asked for at start into the registry, loading, so that readiness waits for it.
    pub fn announce(&mut self) {
        for model in &self.read {
            let versions = model.versions.iter().map(|v| (v.version, VersionState::Loading)).collect();
            let mut entry = Entry::new(Arc::new(model.config.clone()), versions, None);
            entry.awaited = true;
            self.shared.registry.put(&model.config.name, &entry);
        }
        for name in &self.asked {
            let mut entry = Entry::new(Arc::new(self.bare(name)), BTreeMap::new(), None);
            entry.awaited = true;
            entry.attempt = Attempt::Loading(Vec::new());
            self.shared.registry.put(name, &entry);
        }
    }

    /// A model's configuration as far as it can be read.
    fn bare(&self, name: &str) -> ModelConfig {
        let mut config = ModelConfig::read(&self.root.join(name), name, &mut Problems::default());
        // Until it serves, it answers for no service.
        config.paddle_service.clear();
        config
    }

    /// Loads what was asked for at start, then does what it is asked, until the server stops.
    pub fn run(mut self, loaded: oneshot::Sender<Result<(), NotServed>>, wake: (Woken, Waker)) {
        let start = Instant::now();
        let outcome = self.start();
        if self.shared.stopping() {
            return;
        }
        if outcome.is_ok() {
            self.shared.registry.set_started();
            self.shared.changed();
            let models = self.shared.registry.models().values().filter(|m| m.serves()).count();
            let failed = self.read.len() + self.asked.len() - models.min(self.read.len() + self.asked.len());
            let seconds = start.elapsed().as_secs_f64();
            if failed == 0 {
                tracing::info!(models, seconds, "ready");
            } else {
                tracing::warn!(
                    models,
                    not_serving = failed,
                    seconds,
                    "not ready: POST /v2/repository/index says why"
                );
            }
        }
        let go_on = outcome.is_ok() && self.mode != ControlMode::None;
        let _ = loaded.send(outcome);
        if !go_on {
            return;
        }
        if self.mode == ControlMode::Poll {
            let watcher = Watcher::new(
                self.root.clone(),
                (self.poll, self.settle),
                Arc::clone(&self.shared),
                Arc::clone(&self.tried),
            );
            // It ends by itself once the server stops.
            if let Err(e) = std::thread::Builder::new()
                .name("watcher".to_owned())
                .spawn(move || watcher.run(&wake.0, &wake.1))
            {
                tracing::error!(error = %e, "no thread to watch the model repository: it is not watched");
            }
        }
        while let Some(job) = self.shared.jobs.next() {
            self.work(job);
        }
    }

    fn start(&mut self) -> Result<(), NotServed> {
        for model in std::mem::take(&mut self.read) {
            let name = model.config.name.clone();
            match self.guarded(|loader| loader.install(model, None, true)) {
                Ok(_) => self.metrics.count(&name, LoadOutcome::Success),
                Err(Refused::Failed(failure)) => return Err(NotServed { model: name, failure }),
                Err(Refused::Unknown | Refused::Changing | Refused::Stopping) => return Ok(()),
            }
        }
        for name in self.asked.clone() {
            if self.shared.stopping() {
                break;
            }
            // What is still being copied is left to the watcher.
            let dir = self.root.join(&name);
            let at_rest = || Fingerprint::of(&dir).is_ok_and(|p| p.at_rest(self.settle));
            if self.mode == ControlMode::Poll && !at_rest() {
                tracing::info!(
                    model = name,
                    settle_millis = self.settle.as_millis(),
                    "its folder has just changed; it is loaded once nothing has for --repository-settle-millis"
                );
                continue;
            }
            self.load(&name, None, Vec::new());
        }
        Ok(())
    }

    fn work(&mut self, job: Job) {
        let Job { model, work, replies } = job;
        match work {
            Work::Load => self.load(&model, None, replies),
            Work::Settled(print) => self.load(&model, Some(&print), replies),
            Work::Unload => self.unload(&model, replies),
        }
    }

    /// A panic of an engine is a failure of the model, not of the loader.
    fn guarded<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Refused>) -> Result<T, Refused> {
        catch_unwind(AssertUnwindSafe(|| f(self))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(Refused::whole(format!("loading it panicked: {}", text.unwrap_or("no message"))))
        })
    }

    fn load(&mut self, name: &str, settled: Option<&Fingerprint>, replies: Vec<Reply>) {
        let outcome = self.guarded(|loader| loader.try_load(name, settled));
        let answer = match outcome {
            Ok(done) => {
                let outcome = match done {
                    Done::Loaded => LoadOutcome::Success,
                    Done::Unchanged => LoadOutcome::Unchanged,
                };
                self.metrics.count(name, outcome);
                Ok(())
            }
            Err(Refused::Failed(failure)) => {
                let version = failure.version.map(|v| v.to_string());
                let serves = self.shared.registry.models().get(name).is_some_and(Entry::serves);
                tracing::error!(
                    model = name,
                    version,
                    old_version_serves = serves,
                    "model not loaded: {}",
                    failure.why
                );
                self.metrics.count(name, LoadOutcome::Failure);
                let text = format!("{} cannot be loaded: {}", failure.subject(name), failure.why);
                self.fail(name, failure);
                Err(InferError::new(ErrorKind::LoadFailed, text))
            }
            Err(Refused::Unknown) => {
                if self.mode == ControlMode::Explicit && self.asked.iter().any(|a| a == name) {
                    let why = format!("{} is no folder", self.root.join(name).display());
                    self.fail(name, Failure { version: None, why });
                }
                Err(unknown(name))
            }
            Err(Refused::Changing) => {
                let why = "its folder changed while it was read; load it again when nobody writes to it";
                if settled.is_none() {
                    self.fail(name, Failure { version: None, why: why.to_owned() });
                }
                self.tried.forget(name);
                Err(InferError::new(
                    ErrorKind::LoadFailed,
                    format!("model \"{name}\" cannot be loaded: {why}"),
                ))
            }
            Err(Refused::Stopping) => {
                Err(InferError::new(ErrorKind::Draining, "the server is shutting down"))
            }
        };
        self.shared.changed();
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
    }

    /// Notes what an attempt failed on, in the registry.
    fn fail(&self, name: &str, failure: Failure) {
        let registry = &self.shared.registry;
        if registry.models().contains_key(name) {
            registry.update(name, |entry| {
                for state in entry.versions.values_mut() {
                    if matches!(state, VersionState::Loading) {
                        *state = VersionState::Unavailable(failure.why.clone());
                    }
                }
                entry.attempt = Attempt::Failed(failure.clone());
            });
        } else {
            let mut entry = Entry::new(Arc::new(self.bare(name)), BTreeMap::new(), None);
            entry.attempt = Attempt::Failed(failure);
            registry.put(name, &entry);
        }
    }

    fn try_load(&mut self, name: &str, settled: Option<&Fingerprint>) -> Result<Done, Refused> {
        let dir = self.root.join(name);
        if !is_model_name(name) || !dir.is_dir() {
            return Err(Refused::Unknown);
        }
        let print = Fingerprint::of(&dir).map_err(|e| Refused::whole(format!("{}: {e}", dir.display())))?;
        if settled.is_some_and(|s| *s != print) {
            return Err(Refused::Changing);
        }
        self.tried.note(name, print.clone());
        let mut problems = Problems::default();
        let model = read_model(name, &dir, &mut problems);
        if let Some(model) = &model {
            self.check_service(&model.config, &mut problems);
        }
        let (Some(model), true) = (model, problems.0.is_empty()) else {
            // What cannot be read may have changed under the reader's eyes.
            if !Fingerprint::of(&dir).is_ok_and(|p| p == print) {
                return Err(Refused::Changing);
            }
            let list: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
            return Err(Refused::whole(list.join("; ")));
        };
        self.install(model, Some(print), false)
    }

    /// PaddleServing's paths name the service: two models cannot have one.
    fn check_service(&self, config: &ModelConfig, problems: &mut Problems) {
        let models = self.shared.registry.models();
        let other = models.values().find(|m| {
            m.serves() && m.config.name != config.name && m.config.paddle_service == config.paddle_service
        });
        if let Some(other) = other {
            repository::service_is_taken(config, &other.config.name, problems);
        }
    }

    /// Loads what is new or has changed, beside what serves, and puts all of it in service at once. With `strict`,
    /// or beside a version that serves, one that fails means that nothing changes.
    fn install(
        &mut self,
        model: RepositoryModel,
        print: Option<Fingerprint>,
        strict: bool,
    ) -> Result<Done, Refused> {
        let RepositoryModel { config, versions } = model;
        let name = config.name.clone();
        let config = Arc::new(config);
        let serving = self.serving(&name);
        let before = self.loaded.get(&name);
        let keep = |v: &RepositoryVersion| {
            let (before, print) = (before?, print.as_ref()?);
            let (folder, outputs) = before.versions.get(&v.version)?;
            let same = *folder == print.folder(&v.version.to_string()) && *outputs == v.spec.outputs;
            let kept = serving.get(&v.version).filter(|s| same && s.ready() && config.serves_like(&s.config));
            kept.cloned()
        };
        let kept: Vec<Option<Arc<ServedModel>>> = versions.iter().map(keep).collect();
        let nothing_new = kept.iter().all(Option::is_some) && kept.len() == serving.len();
        if nothing_new && before.is_some_and(|b| Some(&b.print) == print.as_ref()) {
            self.shared.registry.update(&name, |entry| entry.attempt = Attempt::Settled);
            return Ok(Done::Unchanged);
        }
        if !self.retiring.wait(&name) {
            return Err(Refused::Stopping);
        }
        let loading = versions.iter().zip(&kept).filter(|(_, k)| k.is_none());
        self.begin(&config, loading.map(|(v, _)| v.version).collect(), !serving.is_empty());

        let all_or_nothing = strict || !serving.is_empty();
        let mut candidates = Vec::new();
        let mut refused = None;
        for (version, kept) in versions.iter().zip(kept) {
            let (kept, served) = match kept {
                Some(served) => (true, Ok(served)),
                None if self.shared.stopping() => {
                    refused = Some(Refused::Stopping);
                    break;
                }
                None => (false, self.load_version(&config, version).map(Arc::new)),
            };
            if let (Err(why), true) = (&served, all_or_nothing) {
                refused = Some(Refused::Failed(Failure { version: Some(version.version), why: why.clone() }));
                break;
            }
            candidates.push(Candidate { version: version.version, served, kept });
        }
        let changed = |p: &Fingerprint| !Fingerprint::of(&config.dir).is_ok_and(|now| now == *p);
        if refused.is_none() && print.as_ref().is_some_and(changed) {
            refused = Some(Refused::Changing);
        }
        if let Some(refused) = refused {
            let new = candidates.into_iter().filter(|c| !c.kept).filter_map(|c| c.served.ok());
            new.for_each(|served| served.stop());
            self.shared.registry.update(&name, |entry| {
                if !strict && entry.serves() {
                    entry.attempt = Attempt::Settled;
                }
            });
            return Err(refused);
        }
        let failed = candidates.iter().find_map(|c| Some((c.version, c.served.as_ref().err()?.clone())));
        let seen = versions.iter().map(|v| {
            let folder = print.as_ref().and_then(|p| p.folder(&v.version.to_string()));
            (v.version, (folder, v.spec.outputs.clone()))
        });
        let seen = seen.collect();
        self.swap(&config, candidates);
        if let Some(print) = print {
            self.loaded.insert(name, Loaded { print, versions: seen });
        }
        match failed {
            Some((version, why)) => Err(Refused::Failed(Failure { version: Some(version), why })),
            None => Ok(Done::Loaded),
        }
    }

    /// The versions of a model that serve now.
    fn serving(&self, name: &str) -> BTreeMap<u64, Arc<ServedModel>> {
        let models = self.shared.registry.models();
        let versions = models.get(name).into_iter().flat_map(|m| &m.versions);
        versions
            .filter_map(
                |(v, s)| if let VersionState::Ready(s) = s { Some((*v, Arc::clone(s))) } else { None },
            )
            .collect()
    }

    /// Shows what is being loaded.
    fn begin(&self, config: &Arc<ModelConfig>, versions: Vec<u64>, serving: bool) {
        let registry = &self.shared.registry;
        if serving {
            registry.update(&config.name, |entry| entry.attempt = Attempt::Loading(versions.clone()));
        } else {
            let versions = versions.into_iter().map(|v| (v, VersionState::Loading)).collect();
            let models = registry.models();
            let entry = Entry::new(Arc::clone(config), versions, models.get(&config.name));
            registry.put(&config.name, &entry);
        }
        self.shared.changed();
    }

    /// Puts the new set in service in place of the old one, at once, and retires what it replaces.
    fn swap(&mut self, config: &Arc<ModelConfig>, candidates: Vec<Candidate>) {
        let name = &config.name;
        let mut old = self.serving(name);
        let mut versions = BTreeMap::new();
        let mut retired = Vec::new();
        for Candidate { version, served, kept } in candidates {
            match served {
                Ok(served) => {
                    if let Some(old) = old.remove(&version).filter(|_| !kept) {
                        retired.push((old, Some(Arc::clone(&served))));
                    }
                    versions.insert(version, VersionState::Ready(served));
                }
                Err(why) => {
                    versions.insert(version, VersionState::Unavailable(why));
                }
            }
        }
        for (version, served) in old {
            versions.insert(version, VersionState::Unloading);
            retired.push((served, None));
        }
        self.replace(config, versions, true);
        self.shared.changed();
        self.retiring.retire(name, retired, Vec::new());
    }

    /// Puts a whole entry in the registry. Nothing of the old one is held when this returns.
    fn replace(&self, config: &Arc<ModelConfig>, versions: BTreeMap<u64, VersionState>, awaited: bool) {
        let registry = &self.shared.registry;
        let models = registry.models();
        let mut entry = Entry::new(Arc::clone(config), versions, models.get(&config.name));
        entry.awaited |= awaited;
        registry.put(&config.name, &entry);
    }

    /// Takes a model out of service; `replies` hear when it is gone.
    fn unload(&mut self, name: &str, replies: Vec<Reply>) {
        let registry = &self.shared.registry;
        let known = registry.models().contains_key(name);
        if !known && !self.root.join(name).is_dir() {
            for reply in replies {
                let _ = reply.send(Err(unknown(name)));
            }
            return;
        }
        let old = self.serving(name);
        self.tried.forget(name);
        self.loaded.remove(name);
        if old.is_empty() && !self.root.join(name).is_dir() {
            registry.remove(name);
        } else {
            let models = registry.models();
            if let Some(entry) = models.get(name) {
                let unloaded = |state: &VersionState| match state {
                    VersionState::Ready(_) | VersionState::Unloading => VersionState::Unloading,
                    VersionState::Loading | VersionState::Unloaded | VersionState::Unavailable(_) => {
                        VersionState::Unloaded
                    }
                };
                let versions = entry.versions.iter().map(|(v, s)| (*v, unloaded(s))).collect();
                self.replace(&entry.config, versions, false);
            }
        }
        if !old.is_empty() {
            tracing::info!(model = name, versions = old.len(), "model unloading");
            self.metrics.unloaded(name);
        }
        self.shared.changed();
        let old = old.into_values().map(|served| (served, None)).collect();
        self.retiring.retire(name, old, replies);
    }

    /// Loads one version: engine, warm-up, golden cases. Why not, as a sentence.
    fn load_version(
        &mut self,
        config: &Arc<ModelConfig>,
        version: &RepositoryVersion,
    ) -> Result<ServedModel, String> {
        let name = &config.name;
        let chosen = self.backends.choose(name, config.backend).map_err(|e| e.to_string())?;
        if !self.warned && !chosen.passed_over.is_empty() {
            self.warned = true;
            tracing::warn!(
                backend = chosen.backend.name(),
                "a slower backend serves: {}",
                chosen.passed_over.join("; ")
            );
        }
        let start = Instant::now();
        let load = |backend| ServedModel::load(config, version, backend, self.image, &self.telemetry);
        let loaded = match (load(&*chosen.backend), &chosen.otherwise) {
            (Err(LoadError::Backend(e)), Some(otherwise)) => {
                self.backends.gpu_unused(name, &e.to_string());
                load(&**otherwise)
            }
            (loaded, _) => loaded,
        };
        let served = loaded.map_err(|e| e.to_string())?;
        let info = &served.backend;
        tracing::info!(
            model = name,
            version = version.version,
            backend = info.name,
            backend_version = info.version,
            device = info.device,
            precision = info.precision.name(),
            instances = info.instances,
            largest_batch = info.max_batch_size,
            seconds = start.elapsed().as_secs_f64(),
            "model loaded"
        );
        Ok(served)
    }
}
