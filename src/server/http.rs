//! Connections and dispatch: accepts, bounds, hands each request to its protocol, and drains at the end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::oip::Statistics;
use super::plain::Failure;
use super::reply::{self, JSON, METRICS, Reply, document, reply};
use super::route::{ModelRoute, Route, route};
use super::state::ServerState;
use super::{documents, openapi, pipeline, plain, v2};
use crate::error::{ErrorKind, InferError, shorten};
use crate::scheduler::registry::VersionState;
use crate::telemetry::metrics::Protocol;

/// What a listener answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Everything.
    All,
    /// `/metrics` and health, for a port that only operators reach.
    Metrics,
}

/// Serves `listener` until `stop` turns true, then lets the requests in flight finish.
pub async fn serve(state: Arc<ServerState>, listener: TcpListener, surface: Surface, mut stop: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(state.limits.max_connections));
    let graceful = GracefulShutdown::new();
    loop {
        // At the bound, clients wait in the kernel's backlog.
        let permit = tokio::select! {
            permit = Arc::clone(&connections).acquire_owned() => permit,
            _ = stop.wait_for(|s| *s) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                accept_failed(&e).await;
                continue;
            }
        };
        let connection = connection(Arc::clone(&state), stream, surface);
        let connection = graceful.watch(connection);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            state.telemetry.connections.increment(1.0);
            if let Err(e) = connection.await {
                count_broken(&state, &e);
            }
            state.telemetry.connections.decrement(1.0);
            drop(permit);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// Running out of file descriptors passes when connections close; without a pause this would be a busy loop.
async fn accept_failed(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Counts what hyper answers by itself, before there is a request.
fn count_broken(state: &ServerState, error: &hyper::Error) {
    if error.is_parse_too_large() {
        state.telemetry.count_refused(None, ErrorKind::HeadersTooLarge);
    } else if error.is_timeout() {
        state.telemetry.count_refused(None, ErrorKind::SlowClient);
    } else if error.is_parse() {
        state.telemetry.count_refused(None, ErrorKind::InvalidArgument);
    }
    tracing::debug!(%error, "connection ended");
}

type Connection<S> = hyper::server::conn::http1::Connection<TokioIo<TcpStream>, S>;

fn connection(
    state: Arc<ServerState>,
    stream: TcpStream,
    surface: Surface,
) -> Connection<impl hyper::service::Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: Send>> {
    // Answers are one small write each: waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let limits = state.limits;
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok(answer(&state, request, surface).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.max_header_bytes)
        .serve_connection(TokioIo::new(stream), service)
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
        state.telemetry.count_refused(None, ErrorKind::UnknownPath);
        // A path that starts with a service's name comes from a client of PaddleServing.
        if path.split('/').nth(1).is_some_and(is_service) {
            return pipeline::not_found();
        }
        let text = format!("there is nothing at {}; /openapi.json lists every path", shorten(path));
        return reply::error(&InferError::new(ErrorKind::UnknownPath, text));
    };
    let verbs = found.verbs();
    if !verbs.split(", ").any(|v| v == parts.method.as_str()) {
        state.telemetry.count_refused(None, ErrorKind::MethodNotAllowed);
        let answer = match found {
            Route::Paddle(_) => pipeline::method_not_allowed(),
            _ => {
                let text = format!("{} is not answered at {}; use {verbs}", shorten(parts.method.as_str()), shorten(path));
                reply::error(&InferError::new(ErrorKind::MethodNotAllowed, text))
            }
        };
        return reply::allow(answer, verbs);
    }
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
        Route::Metrics => reply(StatusCode::OK, METRICS, state.telemetry.render()),
        Route::Openapi => document(&openapi::describe(state)),
        Route::Server => document(&documents::server()),
        Route::AllStats => {
            let served = state.registry.served();
            document(&Statistics { model_stats: served.iter().map(|s| documents::statistics(s)).collect() })
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
            let result = describe(state, asked, model, version).map_err(Failure::Uncounted);
            finish(state, Protocol::Oip, result)
        }
    }
}

/// Turns a failure into its answer, and counts it where nobody has.
fn finish(state: &ServerState, protocol: Protocol, result: Result<Reply, Failure>) -> Reply {
    result.unwrap_or_else(|failure| match failure {
        Failure::Counted(error) => reply::error(&error),
        Failure::Uncounted(error) => {
            state.telemetry.count_refused(Some(protocol), error.kind);
            reply::error(&error)
        }
    })
}

fn describe(state: &ServerState, asked: ModelRoute, model: &str, version: Option<&str>) -> Result<Reply, InferError> {
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
    let models = state.registry.models();
    let waiting: Vec<String> = models
        .iter()
        .flat_map(|(name, entry)| entry.versions.iter().map(move |(version, s)| (name, version, s)))
        .filter_map(|(name, version, s)| match s {
            VersionState::Ready(served) if served.ready() => None,
            VersionState::Ready(_) => Some(format!("{name} version {version} has no working instance left")),
            VersionState::Loading => Some(format!("{name} version {version} is loading")),
            VersionState::Unavailable(why) => Some(format!("{name} version {version}: {why}")),
        })
        .collect();
    if waiting.is_empty() { "the server is starting or shutting down".to_owned() } else { waiting.join("; ") }
}
