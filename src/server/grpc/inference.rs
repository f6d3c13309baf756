//! `inference.GRPCInferenceService`: the Open Inference Protocol with Triton's extensions.

use std::borrow::Cow;
use std::sync::Arc;

use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::call::Call;
use super::pb::inference as pb;
use super::pb::inference::grpc_inference_service_server::GrpcInferenceService;
use super::request::{ModelInferRequest, Parameter, Parameters};
use super::status::status;
use super::{documents, stream};
use crate::error::{ErrorKind, InferError};
use crate::repository::LoadParameters;
use crate::scheduler::request::InferRequest;
use crate::scheduler::traffic::Sticky;
use crate::server::body::in_place;
use crate::server::logging::{self, Setting};
use crate::server::oip::Place;
use crate::server::shared_memory::{Peer, Regions, Tensors};
use crate::server::state::{Reservation, ServerState};
use crate::server::{infer, oip};
use crate::telemetry::context::Context;
use crate::telemetry::metrics::Protocol;

/// What a request can be recognised by.
struct Asked<'a> {
    metadata: &'a MetadataMap,
    parameters: &'a Parameters,
}

impl Sticky for Asked<'_> {
    fn header(&self, name: &str) -> Option<&str> {
        self.metadata.get(name)?.to_str().ok()
    }

    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.parameters.get(name)? {
            Parameter::Text(text) => Some(Cow::Borrowed(text)),
            Parameter::Int(number) => Some(Cow::Owned(number.to_string())),
            Parameter::Uint(number) => Some(Cow::Owned(number.to_string())),
            // As over HTTP, neither says who asks.
            Parameter::Bool(_) | Parameter::Double(_) => None,
        }
    }
}

/// Answers one request, of a call of its own or of a stream.
pub(super) async fn infer(
    state: &ServerState,
    message: ModelInferRequest,
    metadata: &MetadataMap,
    call: &Call,
    context: &Context,
    mut reservation: Option<Reservation>,
) -> Result<pb::ModelInferResponse, InferError> {
    context.inference(Protocol::OipGrpc);
    context.received(reservation.as_ref().map_or(0, Reservation::bytes));
    let target = state.registry.target(&message.model_name, message.version())?;
    let served = target.pick(&Asked { metadata, parameters: &message.parameters });
    let mut memory = Tensors::new(state, call.peer);
    let (asked, rows) = in_place(message.tensor_bytes(), || {
        let mut asked = message.resolve(reservation.as_mut(), &mut memory)?;
        let rows = infer::rows(&served, &mut asked)?;
        Ok::<_, InferError>((asked, rows))
    })?;
    let (arrival, context) = (context.arrival, context.clone());
    let timeout = call.timeout(asked.timeout, arrival);
    let request = InferRequest { rows, priority: asked.priority, timeout, arrival, context };
    let outputs = served.infer(request, Protocol::OipGrpc).await?.outputs;
    let version = served.version.to_string();
    let answered = infer::response(&served, &version, &asked, outputs);
    let mut answered = oip::answered(&answered, &asked.outputs, true)?;
    memory.store(&mut answered)?;
    let mut response = pb::ModelInferResponse {
        model_name: served.config.name.clone(),
        model_version: version.clone(),
        id: asked.id.clone().unwrap_or_default(),
        ..pb::ModelInferResponse::default()
    };
    for output in answered {
        response.outputs.push(pb::model_infer_response::InferOutputTensor {
            name: output.name.to_owned(),
            datatype: output.datatype.name().to_owned(),
            shape: output.shape.iter().map(|&d| d as i64).collect(),
            parameters: output.place.map(parameters_of).unwrap_or_default(),
            ..Default::default()
        });
        // One that lies in shared memory leaves an empty element, as clients count them.
        response.raw_output_contents.push(output.data);
    }
    Ok(response)
}

/// The call that a request belongs to: `server::grpc::answer` puts it there.
pub(super) fn call<T>(request: &Request<T>) -> Result<Arc<Call>, Status> {
    let found = request.extensions().get::<Arc<Call>>().cloned();
    found.ok_or_else(|| status(&InferError::new(ErrorKind::Internal, "the request belongs to no call")))
}

/// The regions, for who may use them.
fn regions<'a, T>(state: &'a ServerState, request: &Request<T>) -> Result<&'a Regions, InferError> {
    state.shared_memory.admit(request.extensions().get::<Peer>().copied())
}

fn unimplemented(what: &str) -> Status {
    status(&InferError::new(ErrorKind::Unimplemented, what))
}

/// Where an output lies.
fn parameters_of(place: Place) -> std::collections::HashMap<String, pb::InferParameter> {
    use pb::infer_parameter::ParameterChoice as Choice;
    let number = |n: u64| Choice::Int64Param(i64::try_from(n).unwrap_or(i64::MAX));
    [
        ("shared_memory_region", Choice::StringParam(place.region)),
        ("shared_memory_offset", number(place.offset)),
        ("shared_memory_byte_size", number(place.byte_size)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), pb::InferParameter { parameter_choice: Some(value) }))
    .collect()
}

/// `text`, where it is not empty.
fn named(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

const NO_CUDA_REGIONS: &str = "CUDA shared memory is not served; send tensors in `raw_input_contents`";

#[async_trait]
impl GrpcInferenceService for ServerState {
    async fn server_live(
        &self,
        _: Request<pb::ServerLiveRequest>,
    ) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let asked = request.get_ref();
        let ready = match self.registry.find(&asked.name, named(&asked.version)) {
            Ok(_) => true,
            // Clients ask before a model is there; Triton says no, too.
            Err(InferError {
                kind: ErrorKind::NotReady | ErrorKind::UnknownModel | ErrorKind::UnknownVersion,
                ..
            }) => false,
            Err(e) => return Err(status(&e)),
        };
        Ok(Response::new(pb::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(documents::server(self)))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let asked = request.get_ref();
        let served = self.registry.find(&asked.name, named(&asked.version)).map_err(|e| status(&e))?;
        Ok(Response::new(documents::metadata(&served, &self.registry)))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let call = call(&request)?;
        let (metadata, _, message) = request.into_parts();
        let answer = infer(self, message, &metadata, &call, &call.context, call.release()).await;
        let answer = answer.map_err(|e| status(&e))?;
        call.context.answers(|| answer.encoded_len());
        Ok(Response::new(answer))
    }

    type ModelStreamInferStream = ReceiverStream<Result<pb::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let call = call(&request)?;
        let state = request.extensions().get::<Arc<ServerState>>().cloned();
        let state = state.ok_or_else(|| {
            status(&InferError::new(ErrorKind::Internal, "the stream belongs to no server"))
        })?;
        Ok(Response::new(stream::start(state, call, request)))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let asked = request.get_ref();
        let served = self.registry.find(&asked.name, named(&asked.version)).map_err(|e| status(&e))?;
        Ok(Response::new(pb::ModelConfigResponse { config: Some(documents::config(&served)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let asked = request.get_ref();
        let statistics = documents::statistics(&self.registry, named(&asked.name), named(&asked.version));
        statistics.map(Response::new).map_err(|e| status(&e))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let entries = self.repository.index(request.get_ref().ready);
        let models = entries.into_iter().map(|e| pb::repository_index_response::ModelIndex {
            name: e.name,
            version: e.version,
            state: e.state.to_owned(),
            reason: e.reason,
        });
        Ok(Response::new(pb::RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let asked = request.into_inner();
        let parameters = load_parameters(asked.parameters).map_err(|e| status(&e))?;
        self.repository.load(&asked.model_name, parameters).await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        self.repository.unload(&request.get_ref().model_name).await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<pb::SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<pb::SystemSharedMemoryStatusResponse>, Status> {
        let found = regions(self, &request).and_then(|r| r.status(named(&request.get_ref().name)));
        let regions = found.map_err(|e| status(&e))?.into_iter().map(|region| {
            let facts = pb::system_shared_memory_status_response::RegionStatus {
                name: region.name.clone(),
                key: region.key,
                offset: region.offset,
                byte_size: region.byte_size,
            };
            (region.name, facts)
        });
        Ok(Response::new(pb::SystemSharedMemoryStatusResponse { regions: regions.collect() }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<pb::SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<pb::SystemSharedMemoryRegisterResponse>, Status> {
        let asked = request.get_ref();
        let done = regions(self, &request)
            .and_then(|r| r.register(&asked.name, &asked.key, asked.offset, asked.byte_size));
        done.map(|()| Response::new(pb::SystemSharedMemoryRegisterResponse {})).map_err(|e| status(&e))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<pb::SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<pb::SystemSharedMemoryUnregisterResponse>, Status> {
        let regions = regions(self, &request).map_err(|e| status(&e))?;
        regions.unregister(named(&request.get_ref().name));
        Ok(Response::new(pb::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<pb::CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<pb::CudaSharedMemoryStatusResponse>, Status> {
        Err(unimplemented(NO_CUDA_REGIONS))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<pb::CudaSharedMemoryRegisterRequest>,
    ) -> Result<Response<pb::CudaSharedMemoryRegisterResponse>, Status> {
        Err(unimplemented(NO_CUDA_REGIONS))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<pb::CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<pb::CudaSharedMemoryUnregisterResponse>, Status> {
        Err(unimplemented(NO_CUDA_REGIONS))
    }

    async fn trace_setting(
        &self,
        _: Request<pb::TraceSettingRequest>,
    ) -> Result<Response<pb::TraceSettingResponse>, Status> {
        Err(unimplemented("traces go to --otlp-endpoint, which is set when the server starts"))
    }

    async fn log_settings(
        &self,
        request: Request<pb::LogSettingsRequest>,
    ) -> Result<Response<pb::LogSettingsResponse>, Status> {
        log_settings(self, request.into_inner()).map(Response::new).map_err(|e| status(&e))
    }
}

/// Answers with the log's settings, after changing those that are given.
fn log_settings(
    state: &ServerState,
    request: pb::LogSettingsRequest,
) -> Result<pb::LogSettingsResponse, InferError> {
    use pb::log_settings_request::setting_value::ParameterChoice as Given;
    use pb::log_settings_response::SettingValue;
    use pb::log_settings_response::setting_value::ParameterChoice as Told;
    if !request.settings.is_empty() {
        let given = request.settings.into_iter().map(|(name, value)| {
            let value = match value.parameter_choice {
                Some(Given::BoolParam(value)) => Setting::Bool(value),
                Some(Given::Uint32Param(value)) => Setting::Number(value.into()),
                Some(Given::StringParam(value)) => Setting::Text(value),
                None => Setting::Other("nothing".to_owned()),
            };
            (name, value)
        });
        logging::change(state, given)?;
    }
    let settings = logging::settings()?.into_iter().map(|(name, value)| {
        let value = match value {
            Setting::Bool(value) => Told::BoolParam(value),
            Setting::Number(value) => Told::Uint32Param(u32::try_from(value).unwrap_or(u32::MAX)),
            Setting::Text(value) | Setting::Other(value) => Told::StringParam(value),
        };
        (name.to_owned(), SettingValue { parameter_choice: Some(value) })
    });
    Ok(pb::LogSettingsResponse { settings: settings.collect() })
}

/// `config` and `file:<version>/<file>`; others are not looked at, as Triton has more of them.
fn load_parameters(
    given: std::collections::HashMap<String, pb::ModelRepositoryParameter>,
) -> Result<LoadParameters, InferError> {
    use pb::model_repository_parameter::ParameterChoice as Choice;
    let wrong = |name: &str, expected: &str| {
        let text = format!("parameter `{}`: expected {expected}", crate::error::shorten(name));
        InferError::new(ErrorKind::InvalidArgument, text)
    };
    let mut parameters = LoadParameters::default();
    for (name, value) in given {
        let value = value.parameter_choice;
        if name == "config" {
            let Some(Choice::StringParam(config)) = value else { return Err(wrong(&name, "a string")) };
            parameters.config = Some(config);
        } else if let Some(path) = name.strip_prefix("file:") {
            let Some(Choice::BytesParam(content)) = value else { return Err(wrong(&name, "bytes")) };
            parameters.files.push((path.to_owned(), content));
        }
    }
    // A map has no order of its own.
    parameters.files.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(parameters)
}
