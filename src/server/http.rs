//! Dispatch: finds what a request asks for and hands it to its protocol.

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, StatusCode, Version};

use super::listener::Surface;
use super::reply::{self, JSON, METRICS, Reply, document, reply};
use super::route::{ModelRoute, Route, route};
use super::shared_memory::{self, Peer};
use super::state::ServerState;
use super::{console, documents, logging, openapi, pipeline, plain, repository, v2};
use crate::error::{ErrorKind, InferError, shorten};
use crate::scheduler::registry::{Attempt, VersionState};
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;

/// Answers one request.
pub async fn answer(
    state: &ServerState,
    request: Request<Incoming>,
    surface: Surface,
    context: &Context,
) -> Reply {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let posted = parts.method == Method::POST;
    let models = state.registry.models();
    let is_service = |name: &str| models.values().any(|m| m.config.paddle_service == name);
    let found = route(path, posted, is_service)
        .filter(|r| allowed_on(*r, surface) && shown(state, *r, &parts.headers));
    let Some(found) = found else {
        state.telemetry.count_error(None, ErrorKind::UnknownPath);
        context.failed(ErrorKind::UnknownPath);
        // A path that starts with a service's name comes from a client of PaddleServing.
        if path.split('/').nth(1).is_some_and(is_service) {
            return pipeline::not_found();
        }
        let hint = match surface {
            Surface::Http | Surface::Grpc => "/openapi.json lists every path",
            Surface::Metrics => "this port has /metrics and health",
        };
        let text = format!("there is nothing at {}; {hint}", shorten(path));
        return reply::error(&InferError::new(ErrorKind::UnknownPath, text));
    };
    let verbs = found.verbs();
    if !verbs.split(", ").any(|v| v == parts.method.as_str()) {
        state.telemetry.count_error(None, ErrorKind::MethodNotAllowed);
        context.failed(ErrorKind::MethodNotAllowed);
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
    let peer = parts.extensions.get::<Peer>().copied();
    let http1 = parts.version < Version::HTTP_2;
    let mut answer = dispatch(state, found, query, &parts, peer, body, context).await;
    // In HTTP/1, a body that nobody read would be taken for the next request: hyper drops such a connection, and
    // the client should know.
    if unread && http1 && answer.status() == StatusCode::PAYLOAD_TOO_LARGE {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn allowed_on(route: Route<'_>, surface: Surface) -> bool {
    match surface {
        Surface::Http => true,
        Surface::Grpc => !matches!(route, Route::Console(_)),
        Surface::Metrics => matches!(route, Route::Metrics | Route::Live | Route::Ready),
    }
}

/// Whether the page is there: not where it is off, and at `/` only for who asks for HTML.
fn shown(state: &ServerState, route: Route<'_>, headers: &HeaderMap) -> bool {
    let Route::Console(file) = route else { return true };
    state.limits.console && (!file.is_empty() || console::wanted(headers))
}

async fn dispatch(
    state: &ServerState,
    route: Route<'_>,
    query: &str,
    head: &Parts,
    peer: Option<Peer>,
    body: Incoming,
    context: &Context,
) -> Reply {
    let headers = &head.headers;
    match route {
        Route::Live => {
            context.quiet();
            reply(StatusCode::OK, JSON, r#"{"live":true}"#)
        }
        Route::Ready => {
            context.quiet();
            readiness(state.ready(), || why_not_ready(state))
        }
        Route::Logging => {
            let answer = logging::answer(state, &head.method, headers, body, context).await;
            finish(state, Protocol::Oip, answer, context)
        }
        Route::Metrics => {
            state.telemetry.ready.set(f64::from(u8::from(state.ready())));
            state.telemetry.refresh().await;
            reply(StatusCode::OK, METRICS, state.telemetry.render())
        }
        Route::Openapi => document(&openapi::describe(state)),
        Route::Console(file) => {
            console::answer(file, headers).unwrap_or_else(|| reply(StatusCode::NOT_FOUND, JSON, ""))
        }
        Route::Server => document(&documents::server(state)),
        Route::AllStats => {
            let statistics = documents::statistics(&state.registry, None, None);
            finish(state, Protocol::Oip, statistics.map(|s| document(&s)), context)
        }
        Route::SharedMemory(asked, region) => {
            let answer = shared_memory::documents::answer(state, asked, region, peer, headers, body).await;
            finish(state, Protocol::Oip, answer, context)
        }
        Route::Repository(asked, model, named) => {
            let result = repository::answer(state, asked, model, named.is_some(), headers, body).await;
            finish(state, Protocol::Oip, result, context)
        }
        Route::Paddle(service) => pipeline::infer(state, service, headers, body, context).await,
        Route::Model(ModelRoute::PlainInfer, model, version) => {
            let result = plain::infer(state, model, version, query, headers, body, context).await;
            finish(state, Protocol::Http, result, context)
        }
        Route::Model(ModelRoute::Infer, model, version) => {
            let result = v2::infer(state, model, version, headers, peer, body, context).await;
            finish(state, Protocol::Oip, result, context)
        }
        Route::Model(asked, model, version) => {
            if asked == ModelRoute::Ready {
                context.quiet();
            }
            finish(state, Protocol::Oip, describe(state, asked, model, version), context)
        }
    }
}

/// Turns an error into its answer, and counts it.
fn finish(
    state: &ServerState,
    protocol: Protocol,
    result: Result<Reply, InferError>,
    context: &Context,
) -> Reply {
    result.unwrap_or_else(|error| {
        context.failed(error.kind);
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
        ModelRoute::Stats => document(&documents::statistics(&state.registry, Some(model), version)?),
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
