//! `--model-control-mode poll`: sees what changes in the repository, and has it loaded once it is settled.
//!
//! The file system's events only say that a look is worth while; the looks themselves compare fingerprints. So events
//! that are lost, or never come, as from a network file system, cost time and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::Shared;
use super::fingerprint::Fingerprint;
use super::jobs::Work;
use crate::model::repository::{folder_names, is_model_name};

/// Shortest time between two looks.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Makes the watcher look, or end.
#[derive(Debug, Clone)]
pub(super) struct Waker(SyncSender<()>);

/// The watcher's side of it.
#[derive(Debug)]
pub(super) struct Woken(Receiver<()>);

/// One wake-up that waits is as good as many.
pub(super) fn channel() -> (Waker, Woken) {
    let (sender, receiver) = sync_channel(1);
    (Waker(sender), Woken(receiver))
}

impl Waker {
    pub fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

/// The folder of each model as it was when the loader tried it last.
#[derive(Debug, Default)]
pub(super) struct Tried(Mutex<BTreeMap<String, Fingerprint>>);

impl Tried {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Fingerprint>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, model: &str, print: Fingerprint) {
        self.lock().insert(model.to_owned(), print);
    }

    pub fn forget(&self, model: &str) {
        self.lock().remove(model);
    }

    fn is(&self, model: &str, print: &Fingerprint) -> bool {
        self.lock().get(model) == Some(print)
    }

    fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}

/// How a folder looked, `None` where it was not there, and since when.
type Seen = (Option<Fingerprint>, Instant);

/// Watches the repository.
pub(super) struct Watcher {
    root: PathBuf,
    poll: Duration,
    settle: Duration,
    shared: Arc<Shared>,
    tried: Arc<Tried>,
    /// Models whose folder is not as it was tried last.
    unsettled: BTreeMap<String, Seen>,
    /// What was warned about last, so that it is said once.
    warned: String,
}

impl Watcher {
    /// `times`: the longest between two looks, and how long a folder must not change.
    pub fn new(root: PathBuf, times: (Duration, Duration), shared: Arc<Shared>, tried: Arc<Tried>) -> Self {
        let (poll, settle) = times;
        Self { root, poll, settle, shared, tried, unsettled: BTreeMap::new(), warned: String::new() }
    }

    /// Looks until the server stops.
    pub fn run(mut self, woken: &Woken, waker: &Waker) {
        // Held as long as events are wanted.
        let _events = self.events(waker);
        while !self.shared.stopping() {
            let next = Instant::now() + self.look();
            // While something is being written every write is an event, and a look before its time tells nothing.
            let patient = !self.unsettled.is_empty();
            loop {
                let left = next.saturating_duration_since(Instant::now());
                match woken.0.recv_timeout(left) {
                    Ok(()) if patient && !self.shared.stopping() => {}
                    Ok(()) | Err(RecvTimeoutError::Timeout) => break,
                    // Not while `waker` is there; the time passes all the same.
                    Err(RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(left);
                        break;
                    }
                }
            }
        }
    }

    /// Asks the kernel for events; without them the repository is looked at every `--repository-poll-secs`.
    fn events(&self, waker: &Waker) -> Option<RecommendedWatcher> {
        let waker = waker.clone();
        let root = self.root.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            // After an error, as when the kernel dropped events, nobody knows what has changed.
            if event.is_ok_and(|e| !matters(&root, &e)) {
                return;
            }
            waker.wake();
        };
        let watched = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&self.root, RecursiveMode::Recursive)?;
            Ok(watcher)
        });
        match watched {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(
                    %error,
                    seconds = self.poll.as_secs(),
                    "the model repository cannot be watched (fs.inotify.max_user_watches?); it is looked at every \
                     --repository-poll-secs"
                );
                None
            }
        }
    }

    /// Compares every model's folder with how it was tried last, and asks for what is settled. How long until the
    /// next look, if no event comes.
    fn look(&mut self) -> Duration {
        let names = match folder_names(&self.root) {
            Ok(names) => names,
            Err(e) => {
                self.warn(&format!("the model repository cannot be read: {e}; what serves goes on"));
                return self.poll;
            }
        };
        let mut names: BTreeMap<String, bool> =
            names.into_iter().filter(|n| is_model_name(n)).map(|n| (n, true)).collect();
        let tried = self.tried.names();
        // The empty folder under a volume that is not mounted is not the wish to serve nothing.
        if names.is_empty() && !tried.is_empty() {
            self.warn("the model repository is empty: is it mounted? What serves goes on");
            return self.poll;
        }
        for name in tried {
            names.entry(name).or_insert(false);
        }
        self.unsettled.retain(|name, _| names.contains_key(name));
        let mut pause = self.poll;
        for (name, there) in names {
            if let Some(wait) = self.consider(&name, there) {
                pause = pause.min(wait);
            }
        }
        pause.max(LEAST_PAUSE)
    }

    /// Looks at one model; how long until it is worth another look, `None` where nothing is to be done.
    fn consider(&mut self, name: &str, there: bool) -> Option<Duration> {
        if self.shared.jobs.busy(name) {
            return Some(self.settle);
        }
        let print = if there {
            match Fingerprint::of(&self.root.join(name)) {
                Ok(print) => Some(print),
                // A file that went away between two calls; or something that only the operator can mend.
                Err(e) => {
                    if e.kind() != std::io::ErrorKind::NotFound {
                        self.warn(&format!("{}: {e}; not loaded", self.root.join(name).display()));
                    }
                    return Some(self.settle);
                }
            }
        } else {
            None
        };
        if print.as_ref().is_some_and(|p| self.tried.is(name, p)) {
            self.unsettled.remove(name);
            return None;
        }
        let now = Instant::now();
        let (seen, since) = self.unsettled.entry(name.to_owned()).or_insert_with(|| (print.clone(), now));
        if *seen != print {
            (*seen, *since) = (print, now);
        }
        let left = (*since + self.settle).saturating_duration_since(now);
        if !left.is_zero() {
            return Some(left);
        }
        let work = seen.take().map_or(Work::Unload, Work::Settled);
        self.unsettled.remove(name);
        // The loader says what came of it; where its queue is full, the next look asks again.
        let _ = self.shared.jobs.push(name, work);
        Some(self.settle)
    }

    fn warn(&mut self, text: &str) {
        if self.warned != text {
            tracing::warn!("{text}");
            text.clone_into(&mut self.warned);
        }
    }
}

/// Whether an event can mean that a model has changed: reading, which loading does itself, does not, nor does what
/// happens in the plan cache or another hidden folder of the repository.
fn matters(root: &Path, event: &notify::Event) -> bool {
    let changes = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    };
    let hidden = |path: &PathBuf| {
        let first = path.strip_prefix(root).ok().and_then(|p| p.components().next());
        first.is_some_and(|c| c.as_os_str().to_string_lossy().starts_with('.'))
    };
    changes && (event.paths.is_empty() || !event.paths.iter().all(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::jobs::Job;

    #[test]
    fn what_is_settled_is_asked_for_once_and_an_empty_repository_unloads_nothing() {
        const SETTLE: Duration = Duration::from_millis(20);
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            registry: Arc::default(),
            changes: tokio::sync::watch::Sender::new(0),
            jobs: crate::repository::jobs::Jobs::default(),
            stopping: Arc::default(),
            stop: tokio::sync::watch::Sender::new(false),
        });
        let tried = Arc::new(Tried::default());
        let times = (Duration::from_secs(7), SETTLE);
        let mut watcher = Watcher::new(dir.path().to_owned(), times, Arc::clone(&shared), Arc::clone(&tried));
        let job = |model: &str| {
            shared.jobs.busy(model).then(|| {
                let Job { model, work, .. } = shared.jobs.next().unwrap();
                (model, work)
            })
        };
        assert_eq!(watcher.look(), times.0, "an empty repository");
        for name in ["a", "b", ".hidden"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert!(watcher.look() <= SETTLE && job("a").is_none(), "seen for the first time");
        std::thread::sleep(SETTLE);
        watcher.look();
        let print = |name: &str| Fingerprint::of(&dir.path().join(name)).unwrap();
        assert_eq!(job("a"), Some(("a".to_owned(), Work::Settled(print("a")))));
        assert_eq!(job("b"), Some(("b".to_owned(), Work::Settled(print("b")))));
        tried.note("a", print("a"));
        tried.note("b", print("b"));
        shared.jobs.push("none", Work::Load).unwrap();
        shared.jobs.next();
        assert_eq!(watcher.look(), times.0, "nothing is to be done");

        for name in ["a", "b"] {
            std::fs::rename(dir.path().join(name), dir.path().join(format!(".{name}"))).unwrap();
        }
        for _ in 0..3 {
            assert_eq!(watcher.look(), times.0, "what serves goes on");
            std::thread::sleep(SETTLE);
        }
        std::fs::rename(dir.path().join(".b"), dir.path().join("b")).unwrap();
        assert!(watcher.look() <= SETTLE);
        std::thread::sleep(SETTLE);
        watcher.look();
        assert_eq!(job("a"), Some(("a".to_owned(), Work::Unload)));
        assert!(!shared.jobs.busy("b"));
    }
}
