//! gRPC: Open Inference Protocol with Triton's extensions, PaddleServing's pipeline, health and reflection.
//!
//! [`answer`] takes one call from the connection: it finds the service, bounds what is read (`messages`), gives the
//! call its deadline, and counts how it ended. The services themselves are tonic's, generated from `proto/`.

mod call;
pub mod codec;
mod contents;
mod documents;
mod health;
mod inference;
mod messages;
mod pipeline;
pub mod pipeline_request;
mod reflection;
pub mod request;
mod status;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic_health::pb::health_server::HealthServer;

use self::call::Call;
use self::messages::{Kind, Messages};
use self::pb::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use self::pb::pipeline::pipeline_service_server::PipelineServiceServer;
use self::status::{reason, reason_of, status};
use super::body::Encoding;
use super::state::ServerState;
use crate::error::{ErrorKind, InferError, shorten};
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;

/// Messages and services that build.rs makes out of `proto/`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated; proto/ has the comments")]
pub mod pb {
    /// `proto/inference.proto` and `proto/model_config.proto`
    pub mod inference {
        include!(concat!(env!("OUT_DIR"), "/server/inference.rs"));
    }
    /// `proto/pipeline_service.proto`
    pub mod pipeline {
        include!(concat!(env!("OUT_DIR"), "/server/baidu.paddle_serving.pipeline_serving.rs"));
    }
}

const INFERENCE: &str = "inference.GRPCInferenceService";
const PIPELINE: &str = "baidu.paddle_serving.pipeline_serving.PipelineService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");

/// Methods that only ask how we are.
const PROBES: [&str; 3] = ["ServerLive", "ServerReady", "ModelReady"];

/// Largest message of a method that takes names and settings alone: what such a message becomes in memory may be ten
/// times its size.
const SMALL_MESSAGE_BYTES: usize = 1024 * 1024;

/// How much longer than its deadline a call is waited for: the queue notices it first, and says more about it.
const DEADLINE_GRACE: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Inference,
    Pipeline,
    Health,
    Reflection,
    ReflectionAlpha,
}

/// A method of a service, as far as it matters before its service has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    service: Service,
    kind: Kind,
    /// Whether its messages carry tensors, images or files.
    large: bool,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let service = match service {
            INFERENCE => Service::Inference,
            PIPELINE => Service::Pipeline,
            HEALTH => Service::Health,
            REFLECTION => Service::Reflection,
            REFLECTION_ALPHA => Service::ReflectionAlpha,
            _ => return None,
        };
        let (kind, large) = match (service, method) {
            (Service::Inference, "ModelStreamInfer") => (Kind::Stream, true),
            (Service::Inference, "ModelInfer" | "RepositoryModelLoad") | (Service::Pipeline, _) => {
                (Kind::Unary, true)
            }
            (Service::Reflection | Service::ReflectionAlpha, _) => (Kind::Dialogue, false),
            (Service::Inference | Service::Health, _) => (Kind::Unary, false),
        };
        Some(Self { service, kind, large })
    }

    const fn protocol(self) -> Option<Protocol> {
        match self.service {
            Service::Inference => Some(Protocol::OipGrpc),
            Service::Pipeline => Some(Protocol::PaddleGrpc),
            Service::Health | Service::Reflection | Service::ReflectionAlpha => None,
        }
    }
}

/// Answers one call of any service.
pub async fn answer(
    state: &Arc<ServerState>,
    request: Request<Incoming>,
    context: &Context,
) -> Response<Body> {
    let path = request.uri().path();
    let route = Route::of(path);
    let protocol = route.and_then(Route::protocol);
    if let Err(error) = is_grpc(&request) {
        state.telemetry.count_error(protocol, error.kind);
        context.failed(error.kind);
        return not_grpc(&error);
    }
    let no_method = || {
        let text = format!(
            "there is no method {}; the services here are {INFERENCE}, {PIPELINE}, {HEALTH} and reflection",
            shorten(path)
        );
        InferError::new(ErrorKind::UnknownPath, text)
    };
    let (unknown, result) = match route {
        None => (String::new(), Err(no_method())),
        Some(route) => (no_method().message, call(state, route, request, context).await),
    };
    let mut response = result.unwrap_or_else(|error| status(&error).into_http());
    response.headers_mut().insert(ACCEPT_ENCODING.clone(), ENCODINGS);
    let code = response.headers().get("grpc-status").map(|v| Code::from_bytes(v.as_bytes()));
    let Some(code) = code.filter(|c| *c != Code::Ok) else { return response };
    let found = reason(response.headers());
    let kind = found.unwrap_or_else(|| reason_of(code));
    state.telemetry.count_error(protocol, kind);
    context.failed(kind);
    if found.is_none() && code == Code::Unimplemented {
        // The generated service's own answer has no text.
        return status(&InferError::new(ErrorKind::UnknownPath, unknown)).into_http();
    }
    response
}

async fn call(
    state: &Arc<ServerState>,
    route: Route,
    mut request: Request<Incoming>,
    context: &Context,
) -> Result<Response<Body>, InferError> {
    let peer = request.extensions().get().copied();
    let method = request.uri().path().rsplit('/').next().unwrap_or("");
    if route.kind != Kind::Unary || route.service == Service::Health || PROBES.contains(&method) {
        context.quiet();
    }
    let call = Arc::new(Call::new(request.headers(), peer, context.clone())?);
    let encoding = Encoding::of(request.headers(), &ENCODING)?;
    // What tonic gets is inflated.
    request.headers_mut().remove(&ENCODING);
    let max = state.limits.max_body_bytes;
    let limit = if route.large { max } else { max.min(SMALL_MESSAGE_BYTES) };
    request.extensions_mut().insert(Arc::clone(&call));
    request.extensions_mut().insert(Arc::clone(state));
    let request = request.map(|body| Messages::new(body, state, &call, route.kind, encoding, limit));
    let answer = serve(state, route.service, request);
    match call.deadline {
        Some(deadline) => match tokio::time::timeout_at((deadline + DEADLINE_GRACE).into(), answer).await {
            Ok(response) => Ok(response),
            Err(_) => {
                let text = format!(
                    "grpc-timeout: not answered within {} microseconds of arrival",
                    deadline.saturating_duration_since(context.arrival).as_micros()
                );
                Err(InferError::new(ErrorKind::DeadlineExceeded, text))
            }
        },
        None => Ok(answer.await),
    }
}

async fn serve(state: &Arc<ServerState>, service: Service, request: Request<Messages>) -> Response<Body> {
    // `messages` knows the limit, and has reserved the memory.
    let unlimited = usize::MAX;
    let state = Arc::clone(state);
    let answer = match service {
        Service::Inference => {
            GrpcInferenceServiceServer::from_arc(state).max_decoding_message_size(unlimited).call(request)
        }
        Service::Pipeline => {
            PipelineServiceServer::from_arc(state).max_decoding_message_size(unlimited).call(request)
        }
        Service::Health => HealthServer::from_arc(state).max_decoding_message_size(unlimited).call(request),
        Service::Reflection => return reflection::v1(request).await,
        Service::ReflectionAlpha => return reflection::v1_alpha(request).await,
    };
    answer.await.unwrap_or_else(|e| match e {})
}

/// The code in the head of an answer: of an error, or of success, whose trailers come later. `None` where the request was
/// no call of gRPC.
#[must_use]
pub fn code<B>(answer: &Response<B>) -> Option<i32> {
    let grpc =
        answer.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    let code = answer.headers().get("grpc-status").map_or(Code::Ok, |v| Code::from_bytes(v.as_bytes()));
    grpc.then_some(code as i32)
}

/// Whether this is a call of gRPC at all.
fn is_grpc(request: &Request<Incoming>) -> Result<(), InferError> {
    let kind = request.headers().get(CONTENT_TYPE).map_or("none", |v| v.to_str().unwrap_or("?"));
    let rest = kind.strip_prefix("application/grpc");
    if !rest.is_some_and(|r| r.is_empty() || r.starts_with(';') || r.starts_with("+proto")) {
        let text = format!(
            "this is the port of gRPC: Content-Type is to be application/grpc, got {}; plain HTTP is at --http-port",
            shorten(kind)
        );
        return Err(InferError::new(ErrorKind::UnsupportedMediaType, text));
    }
    if request.method() != Method::POST {
        let text = format!("gRPC calls are POST, got {}", shorten(request.method().as_str()));
        return Err(InferError::new(ErrorKind::MethodNotAllowed, text));
    }
    Ok(())
}

/// An answer that a client of plain HTTP can read.
fn not_grpc(error: &InferError) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(error.message.clone())));
    *response.status_mut() =
        StatusCode::from_u16(error.kind.status().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, super::reply::TEXT);
    response
}
