//! Which backend a model gets: the one asked for or nothing; under `auto`, the best that works here.

#[cfg(not(feature = "tensorrt"))]
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use super::openvino::OpenVino;
use super::rten::Rten;
#[cfg(feature = "tensorrt")]
use super::tensorrt::{TensorRt, TensorRtOptions};
use super::{Backend, BackendError};
use crate::cli::ServeArgs;
use crate::model::config::BackendChoice;
use crate::telemetry::metrics::Telemetry;

/// Rows beyond which a batch gains nothing on a CPU engine with one thread an instance: batches of 1, 2, 4 and
/// 8 run the shipped model within 5 % of each other (docs/benchmarks.md), while every further row makes the
/// rows before it wait.
pub const CPU_BATCH_LIMIT: Option<usize> = Some(4);

/// What a look for TensorRT came to.
enum Gpu {
    /// It can be used.
    #[cfg(feature = "tensorrt")]
    Usable(Arc<dyn Backend>),
    /// There is a GPU, as far as can be told, and it cannot be used.
    Unusable(Arc<BackendError>),
    /// There is none.
    Absent(Arc<BackendError>),
}

/// Backends found on this machine. A library is looked for once, when a model first asks for it, so that a server
/// of other backends does not pay for it.
pub struct Backends {
    gpu: OnceLock<Gpu>,
    openvino: OnceLock<Result<Arc<OpenVino>, Arc<BackendError>>>,
    openvino_dir: Option<PathBuf>,
    rten: Arc<Rten>,
    server: BackendChoice,
    require_gpu: bool,
    #[cfg(feature = "tensorrt")]
    tensorrt: TensorRtOptions,
    telemetry: Telemetry,
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
    /// Under `auto`: the one to take where the first cannot load the model.
    pub otherwise: Option<Arc<dyn Backend>>,
    /// Under `auto`: better backends that cannot be had, each with why and what to do.
    pub passed_over: Vec<String>,
}

impl Chosen {
    fn only(backend: Arc<dyn Backend>) -> Self {
        Self { backend, otherwise: None, passed_over: Vec::new() }
    }
}

impl Backends {
    /// Remembers where to look. A model's own `backend` goes before the `--backend` flag. Once `stop` is set, a plan
    /// that is being built is given up.
    #[must_use]
    pub fn new(args: &ServeArgs, telemetry: &Telemetry, stop: &Arc<AtomicBool>) -> Self {
        #[cfg(not(feature = "tensorrt"))]
        let _ = stop;
        Self {
            gpu: OnceLock::new(),
            openvino: OnceLock::new(),
            openvino_dir: args.openvino_dir.clone(),
            rten: Arc::new(Rten),
            server: args.backend,
            require_gpu: args.require_gpu,
            #[cfg(feature = "tensorrt")]
            tensorrt: TensorRtOptions {
                dir: args.plans.tensorrt_dir.clone(),
                plan_cache: args.plans.cache_dir(&args.model_repository),
                plan_cache_bytes: args.plans.plan_cache_bytes,
                stop: Arc::clone(stop),
            },
            telemetry: telemetry.clone(),
        }
    }

    fn openvino(&self) -> &Result<Arc<OpenVino>, Arc<BackendError>> {
        let probe = || OpenVino::probe(self.openvino_dir.as_deref()).map(Arc::new).map_err(Arc::new);
        self.openvino.get_or_init(probe)
    }

    #[cfg(feature = "tensorrt")]
    fn gpu(&self) -> &Gpu {
        self.gpu.get_or_init(|| match TensorRt::probe(&self.tensorrt, &self.telemetry) {
            Ok(tensorrt) => Gpu::Usable(Arc::new(tensorrt)),
            Err(e) if e.gpu_present => Gpu::Unusable(Arc::new(e.error)),
            Err(e) => Gpu::Absent(Arc::new(e.error)),
        })
    }

    #[cfg(not(feature = "tensorrt"))]
    fn gpu(&self) -> &Gpu {
        self.gpu.get_or_init(|| {
            let error = Arc::new(BackendError::Unavailable {
                backend: "tensorrt",
                why: "this visord was built without the feature `tensorrt`".to_owned(),
                fix: "build it with the default features, or use --backend openvino or --backend rten"
                    .to_owned(),
            });
            let present =
                ["/dev/nvidiactl", "/proc/driver/nvidia/gpus"].iter().any(|p| Path::new(p).exists());
            if present { Gpu::Unusable(error) } else { Gpu::Absent(error) }
        })
    }

    /// Says in the log and in a metric that a GPU is there and `model` is served without it, and why.
    pub fn gpu_unused(&self, model: &str, why: &str) {
        self.telemetry.gpu_unused.set(1.0);
        tracing::error!(
            model,
            why,
            "THE GPU IS NOT USED: this model is served on the CPU; --require-gpu makes this fatal"
        );
    }

    /// Chooses for `model`, which asks for `choice`.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] where a backend was asked for by name and cannot be had, or where a GPU is
    /// required and cannot be used.
    pub fn choose(&self, model: &str, choice: BackendChoice) -> Result<Chosen, Arc<BackendError>> {
        let choice = if choice == BackendChoice::Auto { self.server } else { choice };
        if self.require_gpu && matches!(choice, BackendChoice::OpenVino | BackendChoice::Rten) {
            return Err(Arc::new(BackendError::Unavailable {
                backend: choice.name(),
                why: "--require-gpu is set, and this backend runs on the CPU".to_owned(),
                fix: "use --backend tensorrt or auto, or leave --require-gpu out".to_owned(),
            }));
        }
        match choice {
            BackendChoice::TensorRt => match self.gpu() {
                #[cfg(feature = "tensorrt")]
                Gpu::Usable(tensorrt) => Ok(Chosen::only(Arc::clone(tensorrt))),
                Gpu::Unusable(e) | Gpu::Absent(e) => Err(Arc::clone(e)),
            },
            BackendChoice::OpenVino => Ok(Chosen::only(self.openvino().clone()?)),
            BackendChoice::Rten => Ok(Chosen::only(self.rten.clone())),
            BackendChoice::Auto => match self.gpu() {
                #[cfg(feature = "tensorrt")]
                Gpu::Usable(tensorrt) => {
                    let mut chosen = Chosen::only(Arc::clone(tensorrt));
                    chosen.otherwise = (!self.require_gpu).then(|| self.cpu().backend);
                    Ok(chosen)
                }
                Gpu::Unusable(e) | Gpu::Absent(e) if self.require_gpu => Err(Arc::clone(e)),
                Gpu::Unusable(e) => {
                    self.gpu_unused(model, &e.to_string());
                    let mut chosen = self.cpu();
                    chosen.passed_over.insert(0, e.to_string());
                    Ok(chosen)
                }
                Gpu::Absent(_) => Ok(self.cpu()),
            },
        }
    }

    /// The best that works on the CPU.
    fn cpu(&self) -> Chosen {
        match self.openvino() {
            Ok(openvino) => Chosen::only(openvino.clone()),
            Err(e) => {
                Chosen { backend: self.rten.clone(), otherwise: None, passed_over: vec![e.to_string()] }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};
    use crate::problems::Problems;

    /// Backends of a machine without OpenVINO, and without a GPU as all machines that test are.
    fn with(flags: &[&str]) -> Backends {
        let arguments = ["visord", "serve", "--openvino-dir", "/nonexistent"].iter().chain(flags);
        let arguments: Vec<_> = arguments.map(std::ffi::OsString::from).collect();
        let cli = parse(arguments, &mut Problems::default()).unwrap();
        let Command::Serve(args) = cli.command else { panic!("serve") };
        Backends::new(&args, &Telemetry::new(false), &Arc::default())
    }

    #[test]
    fn a_backend_that_was_asked_for_is_never_replaced() {
        let backends = with(&[]);
        for (choice, fix) in
            [(BackendChoice::OpenVino, "--openvino-dir"), (BackendChoice::TensorRt, "--backend")]
        {
            let error = backends.choose("m", choice).err().unwrap().to_string();
            assert!(error.contains("cannot be used") && error.contains(fix), "{choice:?}: {error}");
        }
        let auto = backends.choose("m", BackendChoice::Auto).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(auto.backend.name(), "rten");
        assert!(auto.passed_over[0].contains("openvino"), "{:?}", auto.passed_over);
        let by_flag = with(&["--backend", "openvino"]);
        assert!(by_flag.choose("m", BackendChoice::Auto).is_err());
        assert_eq!(by_flag.choose("m", BackendChoice::Rten).map(|c| c.backend.name()).ok(), Some("rten"));
    }

    #[test]
    fn a_gpu_that_is_required_is_never_replaced() {
        let backends = with(&["--require-gpu"]);
        for choice in
            [BackendChoice::Auto, BackendChoice::TensorRt, BackendChoice::OpenVino, BackendChoice::Rten]
        {
            let error =
                backends.choose("m", choice).err().unwrap_or_else(|| panic!("{choice:?}")).to_string();
            assert!(error.contains("cannot be used"), "{choice:?}: {error}");
        }
    }
}
