//! Ports: accepts connections within their bound, and at the end waits for those that are open.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::activity::Activity;
use super::connection::connection;
use super::state::ServerState;
use super::tls::Tls;

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

/// Serves `listener`, over TLS where there is `tls`, until `stop` turns true, then lets the requests in flight
/// finish. Dropping the future cuts them.
pub async fn serve(
    state: Arc<ServerState>,
    listener: TcpListener,
    surface: Surface,
    tls: Option<Arc<Tls>>,
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
            Ok((stream, peer)) => {
                let open = Open::new(gauge.clone(), permit);
                let (state, tls, stop) = (Arc::clone(&state), tls.clone(), stop.clone());
                connections.spawn(async move {
                    let _open = open;
                    greet(&state, stream, surface, peer.ip(), tls.as_deref(), stop).await;
                });
            }
            Err(e) => accept_failed(&e).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Shakes hands where there is TLS, and serves the connection.
async fn greet(
    state: &Arc<ServerState>,
    stream: TcpStream,
    surface: Surface,
    peer: IpAddr,
    tls: Option<&Tls>,
    mut stop: watch::Receiver<bool>,
) {
    let activity = Activity::new();
    // Answers are one small write each: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection(state, stream, surface, peer, &activity, stop).await };
    let deadline = activity.begin() + state.limits.header_read_timeout;
    let stream = tokio::select! {
        biased;
        stream = tls.accept(stream, deadline) => stream,
        _ = stop.wait_for(|s| *s) => return,
    };
    if let Some(stream) = stream {
        connection(state, stream, surface, peer, &activity, stop).await;
    }
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
