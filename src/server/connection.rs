//! One connection: which HTTP it speaks, how long it may be idle, and how it ends.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

use super::activity::{Activity, Answered, Stream, Watched};
use super::listener::Surface;
use super::reply::Reply;
use super::shared_memory::Peer;
use super::state::ServerState;
use super::{grpc, http, reply};
use crate::error::{ErrorKind, InferError};
use crate::telemetry::context::{Answered as Outcome, Head};

/// How long, once the server stops, a connection may go on that neither has a request nor is written to.
const END_GRACE: Duration = Duration::from_secs(1);

/// Requests that one connection of HTTP/2 may have open; a client with more waits, or opens another connection.
/// RFC 9113 (6.5.2) wants at least 100; each may hold a head of `--max-header-bytes`, so there is a bound.
const MAX_STREAMS: u32 = 256;

/// How much of a request's body a client may send before it is read: 1 MiB holds most images whole, where the
/// protocol's own 64 KiB would cost a large one a round trip for each 64 KiB. It does not grow by itself
/// (hyper's adaptive window may reach 16 MiB), since `--max-inflight-bytes` counts what has been read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// The same for all bodies of a connection together: two, so that one which waits does not hold up the next.
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

type Body = Answered<Either<Full<Bytes>, tonic::body::Body>>;

/// Serves one connection until it ends, or until the server stops and its requests are answered.
pub async fn connection<I>(
    state: &Arc<ServerState>,
    io: I,
    surface: Surface,
    peer: IpAddr,
    activity: &Arc<Activity>,
    mut stop: watch::Receiver<bool>,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Watched::new(io, Arc::clone(activity));
    let head_deadline = activity.begin() + state.limits.header_read_timeout;
    let http2 = tokio::select! {
        biased;
        http2 = timeout_at(head_deadline, io.speaks_http2()) => http2,
        _ = stop.wait_for(|s| *s) => return,
    };
    match http2 {
        Ok(Ok(true)) => {
            let service = service_fn(|request| answer(state, surface, activity, peer, request));
            let connection = http2_settings(state).serve_connection(TokioIo::new(io), service);
            if let Err(e) = until_end(state, connection, true, activity, stop).await {
                count_broken(state, &e);
            }
        }
        Ok(Ok(false)) => {
            let service = service_fn(|request| answer(state, surface, activity, peer, request));
            let connection = http1::Builder::new()
                .max_header_size(state.limits.max_header_bytes)
                .serve_connection(TokioIo::new(io), service);
            if let Err(e) = until_end(state, connection, false, activity, stop).await {
                count_broken(state, &e);
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "connection ended before its first request"),
        Err(_) => state.telemetry.count_error(None, ErrorKind::SlowClient),
    }
}

/// Bounds of HTTP/2. Floods of streams that are reset at once end the connection by h2's own defaults.
fn http2_settings(state: &ServerState) -> http2::Builder<TokioExecutor> {
    let header_bytes = u32::try_from(state.limits.max_header_bytes).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(header_bytes)
        .keep_alive_interval(state.limits.keepalive)
        .keep_alive_timeout(state.limits.keepalive_timeout);
    builder
}

/// Polls a connection to its end; ends it where it has been without a request for too long, and where the server
/// stops.
async fn until_end<C: GracefulConnection>(
    state: &ServerState,
    connection: C,
    http2: bool,
    activity: &Activity,
    mut stop: watch::Receiver<bool>,
) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let allowed = state.limits.header_read_timeout;
    let mut check = activity.begin() + allowed;
    loop {
        // The connection first: a request that has arrived is read before the connection may end.
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            _ = stop.wait_for(|s| *s) => break,
            () = sleep_until(check) => {}
        }
        let now = tokio::time::Instant::now();
        if activity.busy() {
            check = now + allowed;
        } else if activity.idle_since() + allowed > now {
            check = activity.idle_since() + allowed;
        } else if http2 {
            // It has said its preface, and may well wait for work before its first request: that is not slow.
            break;
        } else {
            if !activity.used() {
                state.telemetry.count_error(None, ErrorKind::SlowClient);
            }
            return Ok(());
        }
    }
    connection.as_mut().graceful_shutdown();
    finish(connection, activity).await
}

/// Lets requests and answers that are under way finish.
async fn finish<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
) -> Result<(), C::Error> {
    let _ = activity.wrote();
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            () = tokio::time::sleep(END_GRACE) => if !activity.busy() && !activity.wrote() { return Ok(()) },
        }
    }
}

/// Counts what hyper answers by itself, before there is a request.
fn count_broken(state: &ServerState, error: &hyper::Error) {
    if error.is_parse_too_large() {
        state.telemetry.count_error(None, ErrorKind::HeadersTooLarge);
    } else if error.is_parse() || is_nonsense(error) {
        state.telemetry.count_error(None, ErrorKind::InvalidArgument);
    }
    tracing::debug!(%error, "connection ended");
}

/// The answer to HEAD: hyper leaves its body out in HTTP/1.1 only.
fn without_body(answer: Reply) -> Reply {
    let (mut head, body) = answer.into_parts();
    if let Some(length) = body.size_hint().exact() {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    Response::from_parts(head, Full::default())
}

/// Whether it was the server that gave up on a connection of HTTP/2, because of what the client sent.
fn is_nonsense(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_library)
}

fn answer(
    state: &Arc<ServerState>,
    surface: Surface,
    activity: &Arc<Activity>,
    peer: IpAddr,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
    let stream = Stream::begin(activity);
    if state.shared_memory.on() {
        request.extensions_mut().insert(Peer(peer));
    }
    let state = Arc::clone(state);
    async move {
        let grpc = surface == Surface::Grpc && request.version() == Version::HTTP_2;
        let exchange = state.observer.begin(request.headers(), || {
            Head::new(request.method(), request.uri().path(), request.version(), peer, grpc)
        });
        let context = exchange.context();
        let mut answer = match surface {
            Surface::Http | Surface::Metrics => {
                let bare = request.version() == Version::HTTP_2 && request.method() == Method::HEAD;
                let answer = http::answer(&state, request, surface, context).await;
                (if bare { without_body(answer) } else { answer }).map(Either::Left)
            }
            Surface::Grpc if grpc => grpc::answer(&state, request, context).await.map(Either::Right),
            Surface::Grpc => {
                state.telemetry.count_error(None, ErrorKind::InvalidArgument);
                context.failed(ErrorKind::InvalidArgument);
                let text = "this is the port of gRPC, which needs HTTP/2; HTTP/1.1 is at --http-port";
                reply::error(&InferError::new(ErrorKind::InvalidArgument, text)).map(Either::Left)
            }
        };
        context.mark(answer.headers_mut());
        let code = if grpc { grpc::code(&answer) } else { None };
        let outcome = code.map_or(Outcome::Http(answer.status().as_u16()), Outcome::Grpc);
        let bytes = answer.body().size_hint().exact();
        exchange.finish(outcome, bytes);
        Ok(answer.map(|body| Answered::new(body, stream)))
    }
}
