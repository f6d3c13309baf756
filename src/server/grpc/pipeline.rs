//! `baidu.paddle_serving.pipeline_serving.PipelineService`: PaddleServing's clients work as they are.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, async_trait};

use super::call::Call;
use super::inference::call;
use super::pb::pipeline as pb;
use super::pb::pipeline::pipeline_service_server::PipelineService;
use super::pipeline_request::{self, TensorData, tensor};
use super::status::status;
use crate::backend::RowInput;
use crate::error::{ErrorKind, InferError};
use crate::model::spec::ModelSpec;
use crate::scheduler::request::InferRequest;
use crate::scheduler::traffic::{Chosen, MODEL_VERSION, Sticky};
use crate::server::body::in_place;
use crate::server::paddle::{Answer, Images, PaddleRequest, Stage, no_service};
use crate::server::pipeline::{find, named, stage};
use crate::server::state::{Reservation, ServerState};
use crate::server::{base64, rows};
use crate::telemetry::metrics::Protocol;

/// What a request can be recognised by.
struct Asked<'a> {
    metadata: &'a MetadataMap,
    request: &'a PaddleRequest<'a>,
}

impl Sticky for Asked<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }

    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.get(name).map(Cow::Borrowed)
    }
}

#[async_trait]
impl PipelineService for ServerState {
    async fn inference(
        &self,
        request: Request<pipeline_request::Request>,
    ) -> Result<Response<pb::Response>, Status> {
        let call = call(&request)?;
        let (metadata, _, message) = request.into_parts();
        let context = &call.context;
        context.inference(Protocol::PaddleGrpc);
        let mut reservation = call.release();
        context.received(reservation.as_ref().map_or(0, Reservation::bytes));
        let read = message.read(self.paddle, self.limits.max_images).map_err(|e| status(&e))?;
        let service = service(self, &read.request.name);
        let answer = Answer {
            version: read.version,
            service: service.as_deref().unwrap_or(&read.request.name),
            logid: read.request.logid,
            data_id: self.log_id.fetch_add(1, Ordering::Relaxed) as u64,
        };
        let mut label = None;
        let response = match &service {
            None => Err((Stage::Service, several(self, &read.request.name))),
            Some(service) => match find(self, service) {
                None => Err((Stage::Service, no_service())),
                Some(Err(e)) => Err((Stage::Service, e)),
                Some(Ok(target)) => {
                    let served = target.pick(&Asked { metadata: &metadata, request: &read.request });
                    let key = target.sticky_parameter();
                    let rows =
                        in_place(message.bytes(), || read_rows(&served.spec, &read, key, &mut reservation));
                    let answer = run(&served, rows, &call).await;
                    label = answer.is_ok().then(|| served.label.clone());
                    answer
                }
            },
        };
        let mut response = Response::new(response.unwrap_or_else(|(stage, error)| {
            self.telemetry.count_error(Some(Protocol::PaddleGrpc), error.kind);
            context.failed(error.kind);
            pb::Response {
                err_no: answer.err_no(&error),
                err_msg: answer.error_text(stage, &error.message),
                ..pb::Response::default()
            }
        }));
        context.answers(|| response.get_ref().encoded_len());
        // The message has no field for it.
        if let Some(label) = label.and_then(|label| MetadataValue::try_from(label).ok()) {
            response.metadata_mut().insert(MODEL_VERSION, label);
        }
        Ok(response)
    }
}

/// The service that is meant: the one that is named, or the only one. The stock clients name none.
fn service(state: &ServerState, name: &str) -> Option<String> {
    if !name.is_empty() {
        return Some(name.to_owned());
    }
    let models = state.registry.models();
    let mut services = models.values().map(|m| &m.config.paddle_service).filter(|s| !s.is_empty());
    services.next().filter(|_| services.next().is_none()).cloned()
}

/// No service is named, and it matters.
fn several(state: &ServerState, name: &str) -> InferError {
    let models = state.registry.models();
    let services = models.values().map(|m| m.config.paddle_service.as_str()).filter(|s| !s.is_empty());
    let services: Vec<&str> = services.collect();
    let mut error = no_service();
    error.message.push_str(&format!(" name is \"{name}\", and there are: {}", services.join(", ")));
    error
}

/// The rows of a request, and how many arrays its answer has: one for each image, or one for all rows of tensors.
fn read_rows(
    spec: &ModelSpec,
    read: &pipeline_request::Read<'_>,
    sticky: Option<&str>,
    reservation: &mut Option<Reservation>,
) -> Result<(Vec<RowInput>, usize), InferError> {
    if read.tensors.is_empty() {
        let images = Images::besides(&read.request, sticky)?;
        let images = (0..images.len()).map(|i| images.decode(i).map(Bytes::from));
        return of_images(spec, images.collect::<Result<_, _>>()?);
    }
    if !read.request.key.iter().all(|key| sticky == Some(&**key)) {
        let text = "both key and tensors are given, expected one";
        return Err(InferError::new(ErrorKind::InvalidArgument, text));
    }
    let (mut images, mut inputs) = (Vec::new(), Vec::new());
    for message in read.tensors {
        match tensor(message, reservation.as_mut())? {
            TensorData::Files(files) => images.extend(files),
            TensorData::Base64(texts) => {
                for text in texts {
                    let text = std::str::from_utf8(&text).map_err(super::codec::malformed)?;
                    images.push(Bytes::from(base64::decode(text)?));
                }
            }
            TensorData::Numbers(input) => inputs.push(input),
        }
    }
    if inputs.is_empty() {
        return of_images(spec, images);
    }
    if !images.is_empty() {
        let text = "tensors: images and numbers are given, expected one of them";
        return Err(InferError::new(ErrorKind::InvalidArgument, text));
    }
    Ok((rows::from_oip(spec, inputs)?, 1))
}

fn of_images(spec: &ModelSpec, images: Vec<Bytes>) -> Result<(Vec<RowInput>, usize), InferError> {
    let count = images.len();
    Ok((rows::images(spec, images)?, count))
}

async fn run(
    served: &Chosen,
    rows: Result<(Vec<RowInput>, usize), InferError>,
    call: &Arc<Call>,
) -> Result<pb::Response, (Stage, InferError)> {
    let at = |e: InferError| (stage(e.kind), e);
    let (rows, arrays) = rows.map_err(at)?;
    let (arrival, context) = (call.context.arrival, call.context.clone());
    let timeout = call.timeout(None, arrival);
    let request = InferRequest { rows, priority: 0, timeout, arrival, context };
    let outputs = served.infer(request, Protocol::PaddleGrpc).await.map_err(at)?.outputs;
    let mut response = pb::Response::default();
    for (key, tensor) in named(served, &outputs) {
        let value = Answer::value(tensor, arrays)
            .map_err(|e| (Stage::Postprocess, InferError::new(ErrorKind::Internal, e.to_string())))?;
        response.key.push(key.to_owned());
        response.value.push(value);
    }
    Ok(response)
}
