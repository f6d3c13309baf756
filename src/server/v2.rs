//! Open Inference Protocol v2: one inference, from HTTP to rows and back.

use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};

use super::body::{self, in_place};
use super::oip::{self, Parsed};
use super::reply::{JSON, OCTETS, Reply, compress, reply, set_encoding};
use super::rows;
use super::state::ServerState;
use super::sticky::{HttpSticky, name_version};
use crate::error::InferError;
use crate::scheduler::request::InferRequest;
use crate::scheduler::served::ServedModel;
use crate::telemetry::metrics::Protocol;
use crate::tensor::Tensor;

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
    incoming: Incoming,
    arrival: Instant,
) -> Result<Reply, InferError> {
    let target = state.registry.target(model, version)?;
    let collected = body::collect(state, headers, incoming).await?;
    let json_length = headers.get(&INFERENCE_HEADER).map(|v| v.to_str().unwrap_or("?"));
    let (chosen, asked, rows) = in_place(collected.bytes.len(), || {
        let (parsed, key) = oip::parse_keyed(&collected.bytes, json_length, target.sticky_parameter())?;
        let chosen = target.pick(&HttpSticky::new(headers, key));
        let mut request = match parsed {
            Parsed::Infer(request) => request,
            Parsed::Raw(raw) => match &chosen.spec.image {
                Some(image) => raw.resolve(&[rows::image_spec(image)], true)?,
                None => raw.resolve(&chosen.spec.inputs, chosen.spec.batched())?,
            },
        };
        let outputs: Vec<_> = chosen.spec.outputs.iter().map(|o| o.tensor.clone()).collect();
        oip::resolve::check_outputs(&request.outputs, &outputs)?;
        let inputs = std::mem::take(&mut request.inputs);
        let rows = rows::from_oip(&chosen.spec, inputs)?;
        Ok::<_, InferError>((chosen, request, rows))
    })?;
    let request = InferRequest { rows, priority: asked.priority, timeout: asked.timeout, arrival };
    let response = chosen.infer(request, Protocol::Oip).await?;
    let encoded = encode(&chosen, &asked, response.outputs)?;
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

fn encode(
    served: &ServedModel,
    asked: &oip::InferRequest,
    outputs: Vec<Tensor>,
) -> Result<oip::Encoded, InferError> {
    let version = served.version.to_string();
    let outputs = served.spec.outputs.iter().zip(outputs).map(|(spec, tensor)| oip::OutputTensor {
        name: &spec.tensor.name,
        tensor,
        labels: &spec.labels,
    });
    let response = oip::InferResponse {
        model_name: &served.config.name,
        model_version: &version,
        id: asked.id.as_deref(),
        outputs: outputs.collect(),
    };
    oip::write(&response, &asked.outputs, asked.binary_data_output)
}
