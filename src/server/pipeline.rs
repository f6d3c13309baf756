//! PaddleServing's pipeline gateway, `POST /{service}/{method}`: its clients work as they are.

use std::borrow::Cow;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, StatusCode};

use super::body::{self, in_place};
use super::paddle::{Answer, GatewayError, Images, Stage, no_service, parse, write_gateway_error};
use super::reply::{JSON, Reply, TEXT, reply, retry_after};
use super::rows;
use super::state::ServerState;
use super::sticky::{HttpSticky, name_version};
use crate::error::{ErrorKind, InferError};
use crate::scheduler::request::InferRequest;
use crate::scheduler::served::ServedModel;
use crate::scheduler::traffic::{Chosen, Target};
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;
use crate::tensor::Tensor;

/// 405 as the gateway says it.
#[must_use]
pub fn method_not_allowed() -> Reply {
    reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, super::paddle::METHOD_NOT_ALLOWED)
}

/// 404 as the gateway says it.
#[must_use]
pub fn not_found() -> Reply {
    reply(StatusCode::NOT_FOUND, TEXT, super::paddle::NOT_FOUND)
}

/// Answers a request for `service`; application errors come with HTTP 200, as there.
pub async fn infer(
    state: &ServerState,
    service: &str,
    headers: &HeaderMap,
    incoming: Incoming,
    context: &Context,
) -> Reply {
    context.inference(Protocol::Paddle);
    let count = |kind: ErrorKind| {
        state.telemetry.count_error(Some(Protocol::Paddle), kind);
        context.failed(kind);
    };
    let collected = match body::collect(state, headers, incoming).await {
        Ok(collected) => collected,
        Err(e) => {
            count(e.kind);
            return gateway_error(
                &GatewayError {
                    http: e.kind.status().http,
                    code: e.kind.status().grpc,
                    message: e.message.clone(),
                },
                &e,
            );
        }
    };
    context.received(collected.sent);
    let bytes = &collected.bytes;
    let request = match in_place(bytes.len(), || parse(bytes, state.limits.max_images)) {
        Ok(request) => request,
        Err(e) => {
            let kind = if e.http == 400 { ErrorKind::MalformedJson } else { ErrorKind::InvalidArgument };
            count(kind);
            return gateway_error(&e, &InferError::new(kind, ""));
        }
    };
    let answer = Answer {
        version: state.paddle,
        service,
        logid: request.logid,
        data_id: state.log_id.fetch_add(1, Ordering::Relaxed) as u64,
    };
    let mut out = Vec::with_capacity(4096);
    let outcome = match find(state, service) {
        None => Err((Stage::Service, no_service())),
        Some(Err(e)) => Err((Stage::Service, e)),
        Some(Ok(target)) => {
            let key = target.sticky_parameter();
            let images = Images::besides(&request, key).and_then(|images| {
                in_place(bytes.len(), || {
                    (0..images.len()).map(|i| images.decode(i).map(Bytes::from)).collect()
                })
            });
            let value = key.and_then(|key| request.get(key)).map(Cow::Borrowed);
            let chosen = target.pick(&HttpSticky::new(headers, value));
            run(&chosen, images, &answer, context, &mut out).await.map(|()| chosen)
        }
    };
    match outcome {
        Ok(chosen) => {
            let mut answer = reply(StatusCode::OK, JSON, out);
            name_version(&mut answer, &chosen);
            answer
        }
        Err((stage, error)) => {
            count(error.kind);
            answer.write_error(stage, &error, &mut out);
            reply(StatusCode::OK, JSON, out)
        }
    }
}

/// The model that answers for a service: its state decides between "no such service" and "not now".
#[must_use]
pub fn find(state: &ServerState, service: &str) -> Option<Result<Target, InferError>> {
    let models = state.registry.models();
    // One that was unloaded may have had the name before.
    let model = models.values().filter(|m| m.config.paddle_service == service).max_by_key(|m| m.serves())?;
    Some(state.registry.target(&model.config.name, None))
}

/// The outputs under the keys that clients know them by.
#[must_use]
pub fn named<'a>(served: &'a ServedModel, outputs: &'a [Tensor]) -> Vec<(&'a str, &'a Tensor)> {
    let single = served.spec.outputs.len() == 1;
    let named = served.spec.outputs.iter().zip(outputs).map(|(spec, tensor)| {
        let name = spec.tensor.name.as_str();
        let renamed = served.config.paddle_keys.iter().find(|(from, _)| from == name);
        (renamed.map_or(if single { "out" } else { name }, |(_, to)| to.as_str()), tensor)
    });
    named.collect()
}

async fn run(
    served: &Chosen,
    images: Result<Vec<Bytes>, InferError>,
    answer: &Answer<'_>,
    context: &Context,
    out: &mut Vec<u8>,
) -> Result<(), (Stage, InferError)> {
    let images = images.map_err(|e| (stage(e.kind), e))?;
    let count = images.len();
    let rows = rows::images(&served.spec, images).map_err(|e| (Stage::Preprocess, e))?;
    let request =
        InferRequest { rows, priority: 0, timeout: None, arrival: context.arrival, context: context.clone() };
    let response = served.infer(request, Protocol::Paddle).await.map_err(|e| (stage(e.kind), e))?;
    let outputs = named(served, &response.outputs);
    answer
        .write_outputs(&outputs, count, out)
        .map_err(|e| (Stage::Postprocess, InferError::new(ErrorKind::Internal, e.to_string())))
}

/// Where PaddleServing would have failed.
#[must_use]
pub fn stage(kind: ErrorKind) -> Stage {
    match kind {
        ErrorKind::MalformedJson
        | ErrorKind::MalformedProtobuf
        | ErrorKind::UnknownModel
        | ErrorKind::NotReady
        | ErrorKind::Draining => Stage::Service,
        ErrorKind::QueueFull
        | ErrorKind::Overloaded
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Cancelled
        | ErrorKind::NanOutput
        | ErrorKind::Backend
        | ErrorKind::Internal => Stage::Inference,
        ErrorKind::NotAnImage
        | ErrorKind::TruncatedImage
        | ErrorKind::CorruptImage
        | ErrorKind::ImageDimensions
        | ErrorKind::UnsupportedImage
        | ErrorKind::BadBase64
        | ErrorKind::MalformedMultipart
        | ErrorKind::BinarySize
        | ErrorKind::WrongDatatype
        | ErrorKind::WrongShape
        | ErrorKind::InvalidArgument
        | ErrorKind::UnknownVersion
        | ErrorKind::UnknownPath
        | ErrorKind::ControlMode
        | ErrorKind::Forbidden
        | ErrorKind::LoadFailed
        | ErrorKind::Unimplemented
        | ErrorKind::UnknownRegion
        | ErrorKind::MethodNotAllowed
        | ErrorKind::UnsupportedMediaType
        | ErrorKind::UnsupportedEncoding
        | ErrorKind::CorruptEncoding
        | ErrorKind::BodyTooLarge
        | ErrorKind::HeadersTooLarge
        | ErrorKind::SlowClient => Stage::Preprocess,
    }
}

fn gateway_error(error: &GatewayError, cause: &InferError) -> Reply {
    let mut out = Vec::with_capacity(256);
    write_gateway_error(error, &mut out);
    let status = StatusCode::from_u16(error.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    retry_after(reply(status, JSON, out), cause)
}
