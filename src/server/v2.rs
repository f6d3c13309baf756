//! Open Inference Protocol v2: one inference, from HTTP to rows and back.

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::body::{self, in_place};
use super::oip::{self, Parsed};
use super::reply::{JSON, OCTETS, Reply, compress, reply, set_encoding};
use super::shared_memory::{Peer, Tensors};
use super::state::ServerState;
use super::sticky::{HttpSticky, name_version};
use super::{infer, rows};
use crate::error::InferError;
use crate::scheduler::request::InferRequest;
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;

static INFERENCE_HEADER: HeaderName = HeaderName::from_static("inference-header-content-length");

/// Answers `POST /v2/models/{model}[/versions/{version}]/infer`.
///
/// # Errors
/// Whatever [`crate::error::ErrorKind`] names.
pub async fn infer(
    state: &ServerState,
    model: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    peer: Option<Peer>,
    incoming: Incoming,
    context: &Context,
) -> Result<Reply, InferError> {
    context.inference(Protocol::Oip);
    let target = state.registry.target(model, version)?;
    let collected = body::collect(state, headers, incoming).await?;
    context.received(collected.sent);
    let json_length = headers.get(&INFERENCE_HEADER).map(|v| v.to_str().unwrap_or("?"));
    let mut memory = Tensors::new(state, peer);
    let (chosen, asked, rows) = in_place(collected.bytes.len(), || {
        let sticky = target.sticky_parameter();
        let (parsed, key) = oip::parse_keyed(&collected.bytes, json_length, sticky, &mut memory)?;
        let chosen = target.pick(&HttpSticky::new(headers, key));
        let mut request = match parsed {
            Parsed::Infer(request) => request,
            Parsed::Raw(raw) => match &chosen.spec.image {
                Some(image) => raw.resolve(&[rows::image_spec(image)], true)?,
                None => raw.resolve(&chosen.spec.inputs, chosen.spec.batched())?,
            },
        };
        let rows = infer::rows(&chosen, &mut request)?;
        Ok::<_, InferError>((chosen, request, rows))
    })?;
    let request = InferRequest {
        rows,
        priority: asked.priority,
        timeout: asked.timeout,
        arrival: context.arrival,
        context: context.clone(),
    };
    let response = chosen.infer(request, Protocol::Oip).await?;
    let version = chosen.version.to_string();
    let response = infer::response(&chosen, &version, &asked, response.outputs);
    let mut outputs = oip::answered(&response, &asked.outputs, asked.binary_data_output)?;
    memory.store(&mut outputs)?;
    let encoded = oip::encode(&response, &outputs)?;
    let (body, encoding) = compress(headers, encoded.body);
    let mut answer = match encoded.json_len {
        None => reply(StatusCode::OK, JSON, body),
        Some(length) => {
            let mut answer = reply(StatusCode::OK, OCTETS, body);
            answer.headers_mut().insert(INFERENCE_HEADER.clone(), HeaderValue::from(length));
            answer
        }
    };
    set_encoding(&mut answer, encoding);
    name_version(&mut answer, &chosen);
    Ok(answer)
}
