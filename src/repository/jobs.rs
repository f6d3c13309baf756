//! What the loader is asked to do, in the order in which it was asked.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::fingerprint::Fingerprint;
use crate::error::{ErrorKind, InferError};

/// Most jobs that wait, and most callers that wait for one: more than any repository has models.
const MAX_WAITING: usize = 1024;

/// An answer to who asked.
pub(super) type Reply = oneshot::Sender<Result<(), InferError>>;

/// What is to be done with a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    /// Load it, or load it again.
    Load,
    /// Its folder is settled, and looks like this: load it if it still does.
    Settled(Fingerprint),
    /// Take it out of service.
    Unload,
}

/// One thing to do.
#[derive(Debug)]
pub(super) struct Job {
    pub model: String,
    pub work: Work,
    /// Who waits for it.
    pub replies: Vec<Reply>,
}

/// The loader's bounded queue.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    /// The model that is being worked on.
    current: Option<String>,
    closed: bool,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for work on `model`, or joins the same that waits already with nothing else behind it.
    ///
    /// # Errors
    /// `Overloaded`, `Draining`.
    pub fn push(
        &self,
        model: &str,
        work: Work,
    ) -> Result<oneshot::Receiver<Result<(), InferError>>, InferError> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if state.closed {
            return Err(InferError::new(ErrorKind::Draining, "the server is shutting down"));
        }
        let full = state.waiting.len() >= MAX_WAITING;
        let last = state.waiting.iter_mut().rev().find(|j| j.model == model);
        match last.filter(|j| j.work == work) {
            Some(job) if job.replies.len() < MAX_WAITING => job.replies.push(reply),
            None if !full => {
                state.waiting.push_back(Job { model: model.to_owned(), work, replies: vec![reply] });
            }
            Some(_) | None => {
                let text = format!("{MAX_WAITING} loads and unloads are waiting already");
                return Err(InferError::new(ErrorKind::Overloaded, text));
            }
        }
        drop(state);
        self.ready.notify_one();
        Ok(answer)
    }

    /// Whether work on `model` waits or is under way.
    pub fn busy(&self, model: &str) -> bool {
        let state = self.lock();
        state.current.as_deref() == Some(model) || state.waiting.iter().any(|j| j.model == model)
    }

    /// Blocks until there is a job; `None` once the queue is closed. The job before counts as done.
    pub fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        state.current = None;
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.waiting.pop_front() {
                state.current = Some(job.model.clone());
                return Some(job);
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes no more, and forgets what waits.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_work_is_joined_and_the_order_kept() {
        let jobs = Jobs::default();
        let asked = [
            ("a", Work::Load),
            ("a", Work::Load),
            ("b", Work::Load),
            ("a", Work::Unload),
            ("a", Work::Load),
            ("a", Work::Load),
        ];
        let answers: Vec<_> = asked.into_iter().map(|(m, w)| jobs.push(m, w).unwrap()).collect();
        let done: Vec<_> = std::iter::from_fn(|| {
            let waits = !jobs.lock().waiting.is_empty();
            waits.then(|| jobs.next().unwrap())
        })
        .map(|j| (j.model, j.work, j.replies.len()))
        .collect();
        let want = [("a", Work::Load, 2), ("b", Work::Load, 1), ("a", Work::Unload, 1), ("a", Work::Load, 2)];
        assert_eq!(done, want.map(|(m, w, n)| (m.to_owned(), w, n)));
        assert!(jobs.busy("a") && !jobs.busy("b"));
        drop(answers);
    }

    #[test]
    fn the_queue_is_bounded_and_closes() {
        let jobs = Jobs::default();
        for i in 0..MAX_WAITING {
            jobs.push(&i.to_string(), Work::Load).unwrap();
        }
        assert_eq!(jobs.push("one more", Work::Load).unwrap_err().kind, ErrorKind::Overloaded);
        // Joins what waits.
        let mut answer = jobs.push("7", Work::Load).unwrap();
        jobs.close();
        assert!(answer.try_recv().is_err() && jobs.next().is_none() && !jobs.busy("7"));
        assert_eq!(jobs.push("a", Work::Load).unwrap_err().kind, ErrorKind::Draining);
    }
}
