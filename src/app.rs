//! Wiring: configuration in, a serving process out; readiness and the way down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backend::select::Backends;
use crate::config::Config;
use crate::model::repository::RepositoryModel;
use crate::scheduler::registry::{Registry, VersionState};
use crate::scheduler::served::{LoadError, ServedModel};
use crate::server::listener::{Surface, serve};
use crate::server::state::ServerState;
use crate::server::tls::Tls;
use crate::telemetry::metrics::Telemetry;
use crate::telemetry::tls::TlsMetrics;

/// Samples of histograms are folded into buckets this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How often the models are asked whether they have lost their device.
const LOST_INTERVAL: Duration = Duration::from_millis(250);

/// Least time for the batches in hand, once connections are done or cut.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port cannot be listened on.
    #[error(
        "cannot listen on {address} ({flag}): {source}; another process may have it, choose another port"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The flag that chose it.
        flag: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model does not load.
    #[error("model \"{model}\" version {version} cannot be served: {why}")]
    Load {
        /// Its name.
        model: String,
        /// Its version.
        version: u64,
        /// The reason.
        why: String,
    },
    /// A device failed, and this process cannot use it any more.
    #[error(
        "model \"{model}\" has lost its device: {why}; exiting, so that a new process can take it up again"
    )]
    Lost {
        /// Name of the model.
        model: String,
        /// The device's error.
        why: String,
    },
    /// Something of the process itself failed.
    #[error("{what}: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A server that listens. Readiness follows when its models have loaded.
#[derive(Debug)]
pub struct App {
    state: Arc<ServerState>,
    config: Config,
    /// Where HTTP listens.
    pub http: SocketAddr,
    /// Where gRPC listens.
    pub grpc: SocketAddr,
    /// Where `/metrics` listens.
    pub metrics: SocketAddr,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    upkeep: JoinHandle<()>,
    /// Tells a load that is under way to give up.
    stopping: Arc<AtomicBool>,
    loading: JoinHandle<Result<(), AppError>>,
}

impl App {
    /// Listens, answers liveness, and starts to load the models.
    ///
    /// # Errors
    /// [`AppError::Listen`].
    pub async fn start(config: Config) -> Result<Self, AppError> {
        let (http_listener, http) = listen(config.http, "--http-port").await?;
        let (grpc_listener, grpc) = listen(config.grpc, "--grpc-port").await?;
        let (metrics_listener, metrics) = listen(config.metrics, "--metrics-port").await?;
        let telemetry = Telemetry::new(config.args.triton_metrics);
        let registry = Arc::new(Registry::default());
        let state = Arc::new(ServerState::new(registry, telemetry.clone(), config.limits, config.paddle));
        for model in &config.models {
            for version in &model.versions {
                state.registry.set(&Arc::new(model.config.clone()), version.version, &VersionState::Loading);
            }
        }
        let (stop, stopped) = watch::channel(false);
        let tls = config.tls.clone().map(|credentials| {
            let tls = Arc::new(Tls::new(&credentials, TlsMetrics::new(&telemetry)));
            let (kept, stopped) = (Arc::clone(&tls), stopped.clone());
            tokio::spawn(async move { kept.keep_current(credentials, stopped).await });
            tls
        });
        let listener = |socket, surface, tls| {
            tokio::spawn(serve(Arc::clone(&state), socket, surface, tls, stopped.clone()))
        };
        let listeners = vec![
            listener(http_listener, Surface::Http, tls.clone()),
            listener(grpc_listener, Surface::Grpc, tls),
            // Probes and scrapers have no client certificates, and this port shows nothing but metrics and health.
            listener(metrics_listener, Surface::Metrics, None),
        ];
        let upkeep = tokio::spawn(async move {
            let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
            loop {
                tick.tick().await;
                telemetry.upkeep();
            }
        });
        let stopping = Arc::new(AtomicBool::new(false));
        let loading = {
            let (state, config, stopping) = (Arc::clone(&state), config.clone(), Arc::clone(&stopping));
            tokio::task::spawn_blocking(move || load(&state, &config, &stopping))
        };
        Ok(Self { state, config, http, grpc, metrics, stop, listeners, upkeep, stopping, loading })
    }

    /// Waits until every model serves.
    ///
    /// # Errors
    /// [`AppError::Load`] for the first that cannot.
    pub async fn loaded(&mut self) -> Result<(), AppError> {
        match (&mut self.loading).await {
            Ok(result) => result,
            Err(e) => Err(AppError::Process { what: "loading the models", source: std::io::Error::other(e) }),
        }
    }

    /// Waits until a model has lost its device for good: only a new process can use it again.
    pub async fn lost(&self) -> AppError {
        let mut tick = tokio::time::interval(LOST_INTERVAL);
        loop {
            tick.tick().await;
            for served in self.state.registry.served() {
                if let Some(why) = served.lost() {
                    return AppError::Lost { model: served.config.name.clone(), why: why.to_owned() };
                }
            }
        }
    }

    /// The way down: readiness off; after the configured delay no more connections and no further request on the
    /// open ones; requests in flight, also those whose bodies still arrive, answered within the configured time;
    /// the rest failed, threads joined.
    pub async fn shut_down(mut self) {
        let start = Instant::now();
        tracing::info!(delay_seconds = self.config.exit_delay.as_secs(), "shutting down: readiness is off");
        self.state.start_draining();
        self.stopping.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.config.exit_delay).await;
        for served in self.state.registry.served() {
            served.drain();
        }
        self.state.close();
        let _ = self.stop.send(true);
        let deadline = tokio::time::Instant::now() + self.config.exit_timeout;
        for mut listener in self.listeners {
            if tokio::time::timeout_at(deadline, &mut listener).await.is_err() {
                tracing::warn!(
                    seconds = self.config.exit_timeout.as_secs(),
                    "connections were still busy at --exit-timeout-secs; they are cut"
                );
                listener.abort();
            }
        }
        self.upkeep.abort();
        // A plan that is being built is given up at TensorRT's next step, and leaves no file behind.
        if !self.loading.is_finished() && tokio::time::timeout_at(deadline, &mut self.loading).await.is_err()
        {
            tracing::warn!("a model was still loading at --exit-timeout-secs; it is left behind");
        }
        let served = self.state.registry.served();
        let stopped = tokio::task::spawn_blocking(move || served.iter().for_each(|s| s.stop()));
        // Batches in hand get a moment even where the time is up; one that hangs must not hang the exit.
        let deadline = deadline.max(tokio::time::Instant::now() + STOP_GRACE);
        if !matches!(tokio::time::timeout_at(deadline, stopped).await, Ok(Ok(()))) {
            tracing::error!("an instance did not stop within --exit-timeout-secs; it is left behind");
        }
        tracing::info!(seconds = start.elapsed().as_secs_f64(), "stopped");
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), AppError> {
    let refuse = |source| AppError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    Ok((listener, address))
}

/// Loads every version of every model; blocking.
fn load(state: &ServerState, config: &Config, stopping: &Arc<AtomicBool>) -> Result<(), AppError> {
    let start = Instant::now();
    let backends = Backends::new(&config.args, &state.telemetry, stopping);
    let mut warned = false;
    for model in &config.models {
        load_model(state, config, model, &backends, &mut warned)?;
    }
    tracing::info!(models = config.models.len(), seconds = start.elapsed().as_secs_f64(), "ready");
    Ok(())
}

fn load_model(
    state: &ServerState,
    config: &Config,
    model: &RepositoryModel,
    backends: &Backends,
    warned: &mut bool,
) -> Result<(), AppError> {
    let shared = Arc::new(model.config.clone());
    let name = &model.config.name;
    for version in &model.versions {
        let refuse = |why: String| {
            let state = &state.registry;
            state.set(&shared, version.version, &VersionState::Unavailable(why.clone()));
            AppError::Load { model: name.clone(), version: version.version, why }
        };
        let chosen = backends.choose(name, model.config.backend).map_err(|e| refuse(e.to_string()))?;
        if !*warned && !chosen.passed_over.is_empty() {
            *warned = true;
            tracing::warn!(
                backend = chosen.backend.name(),
                "a slower backend serves: {}",
                chosen.passed_over.join("; ")
            );
        }
        let start = Instant::now();
        let load = |backend| ServedModel::load(&shared, version, backend, config.image, &state.telemetry);
        let loaded = match (load(&*chosen.backend), &chosen.otherwise) {
            (Err(LoadError::Backend(e)), Some(otherwise)) => {
                backends.gpu_unused(name, &e.to_string());
                load(&**otherwise)
            }
            (loaded, _) => loaded,
        };
        let served = loaded.map_err(|e| refuse(e.to_string()))?;
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
        state.registry.set(&shared, version.version, &VersionState::Ready(Arc::new(served)));
    }
    Ok(())
}
