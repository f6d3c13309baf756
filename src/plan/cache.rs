//! The plan cache: a folder of plans, each under the hash of all that it depends on.
//!
//! A plan that is there and whole is loaded without a lock. Whoever has to build takes the key's lock first, across
//! processes; the others wait and load what came of it. A cache that cannot be written still serves.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::builder::{Builder, BuilderError, Built, Event, Identity};
use super::folder::{Folder, Found};
use super::key::{Entry, SHORT_KEY};
use super::lock::{Attempt, KeyLock};
use super::network::hex;
use super::note::{Note, now, quoted};
use super::progress::{Monitor, Progress, Tracker};
use super::request::{PlanError, PlanRequest};
use super::store;
use crate::telemetry::plans::{PlanMetrics, PlanOutcome};

/// How often a lock is tried that another holds.
const POLL: Duration = Duration::from_millis(100);

/// Where a plan came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The folder.
    Hit,
    /// The folder, after another process had built it.
    Waited,
    /// It was built, which took that long, and is in the folder now.
    Built(Duration),
    /// It was built, and could not be written: the next start builds again.
    Memory {
        /// How long the build took.
        took: Duration,
        /// Why it could not be written.
        why: String,
    },
}

/// What [`PlanCache::look`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A whole plan of so many bytes.
    Ready(u64),
    /// None: it must be built.
    Missing,
    /// One that will be set aside and built again, and why.
    Corrupt(String),
}

/// A plan, as [`super::builder::Builder`] made it.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For TensorRT to deserialize.
    pub bytes: Vec<u8>,
    /// SHA-256 over all that it depends on, in hexadecimal.
    pub key: String,
    /// Its file, which is not there for [`Source::Memory`].
    pub path: PathBuf,
    /// Where it came from.
    pub source: Source,
    stem: String,
}

/// The folder, and what this process uses of it.
#[derive(Debug)]
pub struct PlanCache {
    pub(super) folder: Folder,
    max_bytes: u64,
    metrics: Option<PlanMetrics>,
    /// Stems of the plans that this process asked for: they are not pruned while it runs.
    in_use: Mutex<HashSet<String>>,
}

impl PlanCache {
    /// A cache in `dir`, which is made when first written to, of at most `max_bytes`; what writers that died have
    /// left there is removed. Outcomes are counted in `metrics`.
    #[must_use]
    pub fn open(dir: &Path, max_bytes: u64, metrics: Option<PlanMetrics>) -> Self {
        store::sweep(dir);
        let folder = Folder { dir: dir.to_owned(), write: store::write_all };
        Self { folder, max_bytes, metrics, in_use: Mutex::default() }
    }

    /// The plan that `request` asks for: from the folder, or built by `builder`. Blocking; `monitor` hears how far
    /// it is, and stops it by breaking.
    ///
    /// # Errors
    /// [`PlanError`]; never for a cache that cannot be read or written, which is logged as a warning.
    pub fn obtain(
        &self,
        request: &PlanRequest<'_>,
        builder: &dyn Builder,
        monitor: &mut Monitor<'_>,
    ) -> Result<Plan, PlanError> {
        let identity = builder.identity();
        let entry = Entry::new(request, &identity)?;
        self.in_use().insert(entry.stem.clone());
        // Without the lock, a plan that is not whole may be one that is being written.
        if !request.force
            && let Found::Plan(bytes) = self.folder.load(&entry)
        {
            return Ok(self.served(entry, bytes, Source::Hit));
        }
        let (lock, waited) = self.lock(&entry, monitor)?;
        if !request.force {
            match self.folder.load(&entry) {
                Found::Plan(bytes) => {
                    let source = if waited { Source::Waited } else { Source::Hit };
                    return Ok(self.served(entry, bytes, source));
                }
                Found::Missing => self.log_miss(request, &entry),
                Found::Corrupt(why) => {
                    self.count(PlanOutcome::Corrupt);
                    self.folder.set_aside(&entry.stem, &why);
                }
            }
        }
        self.count(PlanOutcome::Miss);
        let start = Instant::now();
        let built = self.build(request, &entry, builder, monitor)?;
        let took = start.elapsed();
        if let Some(metrics) = &self.metrics {
            metrics.build_seconds(request.model, request.version).set(took.as_secs_f64());
        }
        let note = self.note(request, &entry, &identity, &built.plan, took);
        let source = match self.folder.save(&entry, &built.plan, &note) {
            Ok(()) => Source::Built(took),
            Err(e) => {
                self.count(PlanOutcome::Unwritable);
                let why = e.to_string();
                tracing::warn!(
                    model = request.model,
                    version = request.version,
                    dir = %self.folder.dir.display(),
                    error = why,
                    "the plan cannot be kept and is used from memory: the next start builds it again; \
                     name a folder with room in --plan-cache"
                );
                Source::Memory { took, why }
            }
        };
        self.folder.save_timing(&entry, &built.timing_cache);
        drop(lock);
        self.folder.prune(self.max_bytes, &self.in_use());
        Ok(self.plan(entry, built.plan, source))
    }

    /// Where the plan that `request` asks for is, and whether it is there and whole. Blocking: it is read.
    ///
    /// # Errors
    /// [`PlanError`], where it could not be built either.
    pub fn look(
        &self,
        request: &PlanRequest<'_>,
        builder: &dyn Builder,
    ) -> Result<(PathBuf, Look), PlanError> {
        let entry = Entry::new(request, &builder.identity())?;
        let look = match self.folder.load(&entry) {
            Found::Plan(bytes) => Look::Ready(bytes.len() as u64),
            Found::Missing => Look::Missing,
            Found::Corrupt(why) => Look::Corrupt(why),
        };
        Ok((self.folder.plan_path(&entry.stem), look))
    }

    /// Sets a plan aside that TensorRT refused to load, so that the next [`obtain`](Self::obtain) builds it. A plan
    /// that was replaced meanwhile stays.
    pub fn reject(&self, plan: &Plan, reason: &str) {
        self.count(PlanOutcome::Rejected);
        let _lock = match self.folder.try_lock(&plan.key[..SHORT_KEY]) {
            Ok(Attempt::Held(lock)) => lock,
            // Whoever holds it is about to replace the plan.
            Ok(Attempt::Busy) => return,
            Err(e) => {
                tracing::warn!(path = %plan.path.display(), error = %e, "a refused plan cannot be set aside");
                return;
            }
        };
        let there = store::read(&plan.path, plan.bytes.len() as u64);
        if there.is_ok_and(|bytes| bytes == plan.bytes) {
            self.folder.set_aside(&plan.stem, reason);
        }
    }

    fn served(&self, entry: Entry, bytes: Vec<u8>, source: Source) -> Plan {
        self.count(if source == Source::Waited { PlanOutcome::Waited } else { PlanOutcome::Hit });
        self.folder.touch(&entry.stem);
        self.plan(entry, bytes, source)
    }

    fn in_use(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, entry: Entry, bytes: Vec<u8>, source: Source) -> Plan {
        Plan { bytes, path: self.folder.plan_path(&entry.stem), key: entry.key, stem: entry.stem, source }
    }

    fn count(&self, outcome: PlanOutcome) {
        if let Some(metrics) = &self.metrics {
            metrics.count(outcome);
        }
    }

    /// The key's lock, and whether another had it first; no lock where the folder allows none, since writes are
    /// whole even so.
    fn lock(&self, entry: &Entry, monitor: &mut Monitor<'_>) -> Result<(Option<KeyLock>, bool), PlanError> {
        let start = Instant::now();
        let mut waited = false;
        loop {
            match self.folder.try_lock(entry.short_key()) {
                Ok(Attempt::Held(lock)) => return Ok((Some(lock), waited)),
                Ok(Attempt::Busy) => {
                    waited = true;
                    if monitor(&Progress::Waiting { elapsed: start.elapsed() }).is_break() {
                        return Err(PlanError::Cancelled);
                    }
                    std::thread::sleep(POLL);
                }
                Err(e) => {
                    tracing::debug!(key = entry.key, error = %e, "building without a lock");
                    return Ok((None, waited));
                }
            }
        }
    }

    fn build(
        &self,
        request: &PlanRequest<'_>,
        entry: &Entry,
        builder: &dyn Builder,
        monitor: &mut Monitor<'_>,
    ) -> Result<Built, PlanError> {
        let start = Instant::now();
        let mut tell =
            |ratio, phase: &str| monitor(&Progress::Building { ratio, phase, elapsed: start.elapsed() });
        if tell(0.0, "reading the network").is_break() {
            return Err(PlanError::Cancelled);
        }
        let onnx = entry.onnx(request.spec)?;
        let timing = self.folder.timing(entry);
        let mut tracker = Tracker::default();
        let built = builder.build(&onnx, &entry.network.path, &entry.options, &timing, &mut |event| {
            let phase = match event {
                Event::Start { phase, .. } | Event::Step { phase, .. } | Event::Finish { phase } => phase,
            };
            let ratio = tracker.event(event);
            tracing::trace!(?event, ratio, "building");
            tell(ratio, phase)
        });
        match built {
            Ok(built) => {
                // It is done: a wish to stop comes too late.
                let _ = tell(1.0, "done");
                Ok(built)
            }
            Err(BuilderError::Cancelled) => Err(PlanError::Cancelled),
            Err(source @ BuilderError::Failed(_)) => {
                Err(PlanError::Build { path: entry.network.path.display().to_string(), source })
            }
        }
    }

    fn note(
        &self,
        request: &PlanRequest<'_>,
        entry: &Entry,
        identity: &Identity,
        plan: &[u8],
        took: Duration,
    ) -> Note {
        Note {
            model: request.model.to_owned(),
            version: request.version,
            key: entry.key.clone(),
            built_from: entry.built_from.clone(),
            size_bytes: plan.len() as u64,
            sha256: hex(&Sha256::digest(plan)),
            build_seconds: took.as_secs_f64(),
            built_at: now(),
            visord: format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::COMMIT),
            command: self.command(request, identity),
            rejected: None,
        }
    }

    /// What builds the same plan again.
    fn command(&self, request: &PlanRequest<'_>, identity: &Identity) -> String {
        let path = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned()).display().to_string();
        let mut words = vec!["visord".to_owned(), "build".to_owned()];
        let mut flag = |name: &str, value: String| words.extend([name.to_owned(), quoted(&value)]);
        flag("--model-repository", path(&request.repository()));
        flag("--model", request.model.to_owned());
        flag("--precision", request.spec.precision.name().to_owned());
        if identity.flavor.builds_without_gpu() {
            let (major, minor) = request.target.compute_capability;
            flag("--compute-capability", format!("{major}.{minor}"));
        }
        if let Some(dir) = &identity.dir {
            flag("--tensorrt-dir", path(dir));
        }
        flag("--plan-cache", path(&self.folder.dir));
        words.push("--force".to_owned());
        words.join(" ")
    }

    /// Says what has changed since the newest plan of the same model version, if there is one.
    fn log_miss(&self, request: &PlanRequest<'_>, entry: &Entry) {
        let notes = self.folder.notes_like(&entry.stem).into_iter();
        let Some(newest) = notes.max_by(|a, b| a.built_at.cmp(&b.built_at)) else { return };
        let Some(ingredients) = entry.built_from.as_object() else { return };
        let changed = ingredients.iter().filter(|(name, value)| newest.built_from.get(name) != Some(value));
        let changed = changed.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        let (model, version) = (request.model, request.version);
        tracing::info!(model, version, changed, "the plan that is there was built from something else");
    }
}
