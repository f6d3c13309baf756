//! Connections and dispatch: accepts, bounds, hands each request to its protocol, and drains at the end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::oip::Statistics;
use super::reply::{self, JSON, METRICS, Reply, document, reply};
use super::route::{ModelRoute, Route, route};
use super::state::ServerState;
use super::{documents, openapi, pipeline, plain, repository, v2};
use crate::error::{ErrorKind, InferError, shorten};
use crate::scheduler::registry::{Attempt, VersionState};
use crate::telemetry::metrics::Protocol;

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Everything.
    All,
    /// `/metrics` and health, for a port that only operators reach.
    Metrics,
}

/// How long, once the server stops, a connection may go on that has sent a part of a request's head.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// Serves `listener` until `stop` turns true, then lets the requests in flight finish. Dropping the future cuts
/// them.
pub async fn serve(
    state: Arc<ServerState>,
    listener: TcpListener,
    surface: Surface,
    mut stop: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(state.limits.max_connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // At the bound, clients wait in the kernel's backlog.
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            _ = stop.wait_for(|s| *s) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (state, stop) = (Arc::clone(&state), stop.clone());
                connections.spawn(async move {
                    state.telemetry.connections.increment(1.0);
                    connection(&state, stream, surface, stop).await;
                    state.telemetry.connections.decrement(1.0);
                    drop(permit);
                });
            }
            Err(e) => accept_failed(&e).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Running out of file descriptors passes when connections close; without a pause this would be a busy loop.
async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Counts what hyper answers by itself, before there is a request. `used` tells whether the connection has had
/// one: then a timeout is the end of an idle connection.
fn count_broken(state: &ServerState, error: &hyper::Error, used: bool) {
    if error.is_parse_too_large() {
        state.telemetry.count_error(None, ErrorKind::HeadersTooLarge);
    } else if error.is_timeout() {
        if !used {
            state.telemetry.count_error(None, ErrorKind::SlowClient);
        }
    } else if error.is_parse() {
        state.telemetry.count_error(None, ErrorKind::InvalidArgument);
    }
    tracing::debug!(%error, "connection ended");
}

/// Serves one connection until it ends, or until the server stops and its request is answered.
async fn connection(
    state: &Arc<ServerState>,
    stream: TcpStream,
    surface: Surface,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are one small write each: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let (busy, used) = (AtomicBool::new(false), AtomicBool::new(false));
    let service = service_fn(|request| {
        let (busy, used) = (&busy, &used);
        async move {
            used.store(true, Ordering::Relaxed);
            busy.store(true, Ordering::Relaxed);
            let answer = answer(state, request, surface).await;
            busy.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(state.limits.header_read_timeout)
        .max_header_size(state.limits.max_header_bytes)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = async {
        tokio::select! {
            ended = &mut connection => return ended,
            _ = stop.wait_for(|s| *s) => connection.as_mut().graceful_shutdown(),
        }
        loop {
            tokio::select! {
                ended = &mut connection => return ended,
                () = tokio::time::sleep(HEAD_GRACE) => if !busy.load(Ordering::Relaxed) { return Ok(()) },
            }
        }
    };
    if let Err(e) = ended.await {
        count_broken(state, &e, used.load(Ordering::Relaxed));
    }
}

async fn answer(state: &ServerState, request: Request<Incoming>, surface: Surface) -> Reply {
    let arrival = Instant::now();
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let posted = parts.method == Method::POST;
    let models = state.registry.models();
    let is_service = |name: &str| models.values().any(|m| m.config.paddle_service == name);
    let found = route(path, posted, is_service).filter(|r| allowed_on(*r, surface));
    let Some(found) = found else {
        state.telemetry.count_error(None, ErrorKind::UnknownPath);
        // A path that starts with a service's name comes from a client of PaddleServing.
        if path.split('/').nth(1).is_some_and(is_service) {
            return pipeline::not_found();
        }
        let hint = match surface {
            Surface::All => "/openapi.json lists every path",
            Surface::Metrics => "this port has /metrics and health",
        };
        let text = format!("there is nothing at {}; {hint}", shorten(path));
        return reply::error(&InferError::new(ErrorKind::UnknownPath, text));
    };
    let verbs = found.verbs();
    if !verbs.split(", ").any(|v| v == parts.method.as_str()) {
        state.telemetry.count_error(None, ErrorKind::MethodNotAllowed);
        let answer = if matches!(found, Route::Paddle(_)) {
            pipeline::method_not_allowed()
        } else {
            let (method, path) = (shorten(parts.method.as_str()), shorten(path));
            let text = format!("{method} is not answered at {path}; use {verbs}");
            reply::error(&InferError::new(ErrorKind::MethodNotAllowed, text))
        };
        return reply::allow(answer, verbs);
    }
    // Held any longer, it would keep a version in memory that is unloaded meanwhile.
    drop(models);
    let query = parts.uri.query().unwrap_or("");
    let unread = !body.is_end_stream();
    let mut answer = dispatch(state, found, query, &parts.headers, body, arrival).await;
    // A body that nobody read would be taken for the next request: hyper drops such a connection, and the
    // client should know.
    if unread && answer.status() == StatusCode::PAYLOAD_TOO_LARGE {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn allowed_on(route: Route<'_>, surface: Surface) -> bool {
    match surface {
        Surface::All => true,
        Surface::Metrics => matches!(route, Route::Metrics | Route::Live | Route::Ready),
    }
}

async fn dispatch(
    state: &ServerState,
    route: Route<'_>,
    query: &str,
    headers: &HeaderMap,
    body: Incoming,
    arrival: Instant,
) -> Reply {
    match route {
        Route::Live => reply(StatusCode::OK, JSON, r#"{"live":true}"#),
        Route::Ready => readiness(state.ready(), || why_not_ready(state)),
        Route::Metrics => {
            state.telemetry.ready.set(f64::from(u8::from(state.ready())));
            reply(StatusCode::OK, METRICS, state.telemetry.render())
        }
        Route::Openapi => document(&openapi::describe(state)),
        Route::Server => document(&documents::server()),
        Route::AllStats => {
            let served = state.registry.served();
            document(&Statistics { model_stats: served.iter().map(|s| documents::statistics(s)).collect() })
        }
        Route::Repository(asked, model, named) => {
            let result = repository::answer(state, asked, model, named.is_some(), headers, body).await;
            finish(state, Protocol::Oip, result)
        }
        Route::Paddle(service) => pipeline::infer(state, service, headers, body, arrival).await,
        Route::Model(ModelRoute::PlainInfer, model, version) => {
            let result = plain::infer(state, model, version, query, headers, body, arrival).await;
            finish(state, Protocol::Http, result)
        }
        Route::Model(ModelRoute::Infer, model, version) => {
            finish(state, Protocol::Oip, v2::infer(state, model, version, headers, body, arrival).await)
        }
        Route::Model(asked, model, version) => {
            finish(state, Protocol::Oip, describe(state, asked, model, version))
        }
    }
}

/// Turns an error into its answer, and counts it.
fn finish(state: &ServerState, protocol: Protocol, result: Result<Reply, InferError>) -> Reply {
    result.unwrap_or_else(|error| {
        state.telemetry.count_error(Some(protocol), error.kind);
        reply::error(&error)
    })
}

fn describe(
    state: &ServerState,
    asked: ModelRoute,
    model: &str,
    version: Option<&str>,
) -> Result<Reply, InferError> {
    let served = match state.registry.find(model, version) {
        Err(e) if asked == ModelRoute::Ready && e.kind == ErrorKind::NotReady => {
            return Ok(readiness(false, || e.message));
        }
        found => found?,
    };
    Ok(match asked {
        ModelRoute::Ready => readiness(true, String::new),
        ModelRoute::Config => document(&documents::model_config(&served)),
        ModelRoute::Stats => document(&Statistics { model_stats: vec![documents::statistics(&served)] }),
        ModelRoute::Metadata | ModelRoute::Infer | ModelRoute::PlainInfer => {
            document(&documents::metadata(&served, &state.registry))
        }
    })
}

fn readiness(ready: bool, why: impl FnOnce() -> String) -> Reply {
    if ready {
        reply(StatusCode::OK, JSON, r#"{"ready":true}"#)
    } else {
        reply::error(&InferError::new(ErrorKind::NotReady, why()))
    }
}

fn why_not_ready(state: &ServerState) -> String {
    if state.draining() {
        return "the server is shutting down".to_owned();
    }
    let models = state.registry.models();
    let mut waiting: Vec<String> = Vec::new();
    for (name, entry) in models.iter().filter(|(_, entry)| entry.awaited) {
        match &entry.attempt {
            Attempt::Failed(failure) if entry.versions.is_empty() => {
                waiting.push(format!("{name}: {}", failure.why));
            }
            Attempt::Loading(_) if entry.versions.is_empty() => waiting.push(format!("{name} is loading")),
            Attempt::Failed(_) | Attempt::Loading(_) | Attempt::Settled => {}
        }
        for (version, version_state) in &entry.versions {
            let why = match version_state {
                VersionState::Ready(served) if served.ready() => continue,
                VersionState::Unloading | VersionState::Unloaded => continue,
                VersionState::Ready(_) => " has no working instance left".to_owned(),
                VersionState::Loading => " is loading".to_owned(),
                VersionState::Unavailable(why) => format!(": {why}"),
            };
            waiting.push(format!("{name} version {version}{why}"));
        }
    }
    if waiting.is_empty() { "the server is starting".to_owned() } else { waiting.join("; ") }
}
