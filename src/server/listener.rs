//! Ports: accepts connections within their bound, and at the end waits for those that are open.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::connection;
use super::state::ServerState;

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Every path of HTTP.
    Http,
    /// Every service of gRPC.
    Grpc,
    /// `/metrics` and health, for a port that only operators reach.
    Metrics,
}

/// Serves `listener` until `stop` turns true, then lets the requests in flight finish. Dropping the future cuts
/// them.
pub async fn serve(
    state: Arc<ServerState>,
    listener: TcpListener,
    surface: Surface,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(state.limits.max_connections));
    let gauge = match surface {
        Surface::Http | Surface::Metrics => &state.telemetry.connections,
        Surface::Grpc => &state.telemetry.grpc_connections,
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // At the bound, clients wait in the kernel's backlog.
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
            _ = stop.wait_for(|s| *s) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let open = Open::new(gauge.clone(), permit);
                let (state, stop) = (Arc::clone(&state), stop.clone());
                connections.spawn(async move {
                    let _open = open;
                    // Answers are one small write each: waiting for more would only delay them.
                    let _ = stream.set_nodelay(true);
                    connection(&state, stream, surface, stop).await;
                });
            }
            Err(e) => accept_failed(&e).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// An open connection: its place within the bound, and its part of the gauge.
struct Open {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(gauge: Gauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.increment(1.0);
        Self { gauge, _permit: permit }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

/// Running out of file descriptors passes when connections close; without a pause this would be a busy loop.
async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
