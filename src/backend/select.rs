//! Which backend a model gets: the one asked for or nothing; under `auto`, the best that works here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::openvino::OpenVino;
use super::rten::Rten;
use super::{Backend, BackendError};
use crate::model::config::BackendChoice;

/// Rows beyond which a batch gains nothing on a CPU engine with one thread an instance: batches of 1, 2, 4 and
/// 8 run the shipped model within 5 % of each other (docs/benchmarks.md), while every further row makes the
/// rows before it wait.
pub const CPU_BATCH_LIMIT: Option<usize> = Some(4);

/// Backends found on this machine. OpenVINO is loaded once, when a model first asks for it, so that a server of
/// other backends does not pay for it.
#[derive(Clone)]
pub struct Backends {
    openvino: OnceLock<Result<Arc<OpenVino>, Arc<BackendError>>>,
    openvino_dir: Option<PathBuf>,
    rten: Arc<Rten>,
    server: BackendChoice,
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backends").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A choice, and what it fell short of.
pub struct Chosen {
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// Under `auto`: better backends that cannot be had, each with why and what to do.
    pub passed_over: Vec<String>,
}

impl Backends {
    /// Remembers where to look. `server` is the `--backend` flag; a model's own `backend` goes before it.
    #[must_use]
    pub fn probe(server: BackendChoice, openvino_dir: Option<&Path>) -> Self {
        let openvino_dir = openvino_dir.map(PathBuf::from);
        Self { openvino: OnceLock::new(), openvino_dir, rten: Arc::new(Rten), server }
    }

    fn openvino(&self) -> &Result<Arc<OpenVino>, Arc<BackendError>> {
        let probe = || OpenVino::probe(self.openvino_dir.as_deref()).map(Arc::new).map_err(Arc::new);
        self.openvino.get_or_init(probe)
    }

    /// Chooses for a model that asks for `model`.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where a backend was asked for by name and cannot be had.
    pub fn choose(&self, model: BackendChoice) -> Result<Chosen, Arc<BackendError>> {
        let choice = if model == BackendChoice::Auto { self.server } else { model };
        let mut passed_over = Vec::new();
        let backend: Arc<dyn Backend> = match choice {
            BackendChoice::TensorRt => return Err(Arc::new(tensorrt_unavailable())),
            BackendChoice::OpenVino => self.openvino().clone()?,
            BackendChoice::Rten => self.rten.clone(),
            BackendChoice::Auto => match self.openvino() {
                Ok(openvino) => openvino.clone(),
                Err(e) => {
                    passed_over.push(e.to_string());
                    self.rten.clone()
                }
            },
        };
        Ok(Chosen { backend, passed_over })
    }
}

fn tensorrt_unavailable() -> BackendError {
    BackendError::Unavailable {
        backend: "tensorrt",
        why: format!("visord {} has no TensorRT backend yet", env!("CARGO_PKG_VERSION")),
        fix: "use --backend openvino or --backend rten".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_was_asked_for_is_never_replaced() {
        let none = Path::new("/nonexistent");
        let backends = Backends::probe(BackendChoice::Auto, Some(none));
        for (choice, fix) in
            [(BackendChoice::OpenVino, "--openvino-dir"), (BackendChoice::TensorRt, "--backend")]
        {
            let error = backends.choose(choice).err().unwrap().to_string();
            assert!(error.contains("cannot be used") && error.contains(fix), "{choice:?}: {error}");
        }
        let auto = backends.choose(BackendChoice::Auto).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(auto.backend.name(), "rten");
        assert!(auto.passed_over[0].contains("openvino"), "{:?}", auto.passed_over);
        let by_flag = Backends::probe(BackendChoice::OpenVino, Some(none));
        assert!(by_flag.choose(BackendChoice::Auto).is_err());
        assert_eq!(by_flag.choose(BackendChoice::Rten).map(|c| c.backend.name()).ok(), Some("rten"));
    }
}
