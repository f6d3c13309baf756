//! Wiring: configuration in, a serving process out; readiness and the way down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::repository::{NotServed, Started};
use crate::scheduler::registry::{Failure, Registry};
use crate::scheduler::served::ServedModel;
use crate::server::listener::{Surface, serve};
use crate::server::state::ServerState;
use crate::server::tls::Tls;
use crate::telemetry::context::Observer;
use crate::telemetry::metrics::Telemetry;
use crate::telemetry::summary::{Serving, Summary};
use crate::telemetry::tls::TlsMetrics;
use crate::telemetry::trace::{Exporting, Tracer};

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
    #[error("{} cannot be served: {}", failure.subject(model), failure.why)]
    Load {
        /// Its name.
        model: String,
        /// Its version, and the reason.
        failure: Failure,
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
    summary: Option<JoinHandle<()>>,
    exporting: Option<Exporting>,
    started: Started,
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
        let told = &config.args.telemetry;
        let interval = Duration::from_secs(told.summary_interval_secs);
        let telemetry = Telemetry::new(config.args.triton_metrics).summarizing(!interval.is_zero());
        let traces = Tracer::start(told, &telemetry);
        let traces = traces.map_err(|source| AppError::Process { what: "--otlp-endpoint", source })?;
        let (tracer, exporting) = traces.unzip();
        let observer = Observer { access_log: told.access_log, tracer };
        let registry = Arc::new(Registry::default());
        let state = ServerState::new(
            registry,
            telemetry.clone(),
            observer,
            told.log_control,
            config.limits,
            config.paddle,
        );
        let state = Arc::new(state);
        let started = state.repository.start(&config, &telemetry);
        let started = started.map_err(|source| AppError::Process { what: "starting the loader", source })?;
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
        let summary =
            (!interval.is_zero()).then(|| tokio::spawn(Summary::run(serving(&state.registry), interval)));
        Ok(Self { state, config, http, grpc, metrics, stop, listeners, upkeep, summary, exporting, started })
    }

    /// Waits until every model that was asked for at start has been tried.
    ///
    /// # Errors
    /// [`AppError::Load`] for the first that cannot be served, with `--model-control-mode none`. In the other modes the
    /// server goes on without it.
    pub async fn loaded(&mut self) -> Result<(), AppError> {
        match (&mut self.started.loaded).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotServed { model, failure })) => Err(AppError::Load { model, failure }),
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
    ///
    /// `false` where a thread could not be joined, because it loads a model or runs a batch: the process must then end
    /// by [`crate::process::exit`].
    #[must_use]
    pub async fn shut_down(mut self) -> bool {
        let start = Instant::now();
        tracing::info!(delay_seconds = self.config.exit_delay.as_secs(), "shutting down: readiness is off");
        self.state.start_draining();
        self.state.repository.stop();
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
        if let Some(summary) = self.summary {
            summary.abort();
        }
        // A plan that is being built is given up at TensorRT's next step, and leaves no file behind.
        let loaded = tokio::time::timeout_at(deadline, &mut self.started.ended).await.is_ok();
        if !loaded {
            tracing::warn!("a model was still loading at --exit-timeout-secs; it is left behind");
        }
        let served = self.state.registry.served();
        let stopped = tokio::task::spawn_blocking(move || served.iter().for_each(|s| s.stop()));
        // Batches in hand get a moment even where the time is up; one that hangs must not hang the exit.
        let deadline = deadline.max(tokio::time::Instant::now() + STOP_GRACE);
        let stopped = matches!(tokio::time::timeout_at(deadline, stopped).await, Ok(Ok(())));
        if !stopped {
            tracing::error!("an instance did not stop within --exit-timeout-secs; it is left behind");
        }
        if let Some(exporting) = self.exporting {
            // Spans of the last requests get the same moment.
            exporting.shut_down(deadline.max(tokio::time::Instant::now() + STOP_GRACE)).await;
        }
        tracing::info!(seconds = start.elapsed().as_secs_f64(), "stopped");
        loaded && stopped
    }
}

/// The versions that serve, for the summary line.
fn serving(registry: &Arc<Registry>) -> impl Fn() -> Vec<Serving> + use<> {
    let registry = Arc::clone(registry);
    let entry = |s: &Arc<ServedModel>| (s.config.name.clone(), s.version, Arc::clone(&s.metrics));
    move || registry.served().iter().map(entry).collect()
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), AppError> {
    let refuse = |source| AppError::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    Ok((listener, address))
}
