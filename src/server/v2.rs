//! Open Inference Protocol v2: one inference, from HTTP to rows and back.

use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::body::{self, in_place};
use super::oip::{self, Parsed};
use super::reply::{JSON, OCTETS, Reply, compress, reply, set_encoding};
use super::shared_memory::{Peer, Tensors};
use super::state::ServerState;
use super::{infer, rows};
use crate::error::InferError;
use crate::scheduler::request::InferRequest;
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
    arrival: Instant,
) -> Result<Reply, InferError> {
    let served = state.registry.find(model, version)?;
    let collected = body::collect(state, headers, incoming).await?;
    let json_length = headers.get(&INFERENCE_HEADER).map(|v| v.to_str().unwrap_or("?"));
    let mut memory = Tensors::new(state, peer);
    let (asked, rows) = in_place(collected.bytes.len(), || {
        let mut request = match oip::parse_with(&collected.bytes, json_length, &mut memory)? {
            Parsed::Infer(request) => request,
            Parsed::Raw(raw) => match &served.spec.image {
                Some(image) => raw.resolve(&[rows::image_spec(image)], true)?,
                None => raw.resolve(&served.spec.inputs, served.spec.batched())?,
            },
        };
        let rows = infer::rows(&served, &mut request)?;
        Ok::<_, InferError>((request, rows))
    })?;
    let request = InferRequest { rows, priority: asked.priority, timeout: asked.timeout, arrival };
    let response = served.infer(request, Protocol::Oip).await?;
    let version = served.version.to_string();
    let response = infer::response(&served, &version, &asked, response.outputs);
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
    Ok(answer)
}
