//! `ModelStreamInfer`: many requests on one stream, several of them at once, each answered when it is ready.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status, Streaming};

use super::call::Call;
use super::inference::infer;
use super::pb::inference as pb;
use super::pb::inference::infer_parameter::ParameterChoice as Choice;
use super::request::{ModelInferRequest, Parameter, Parameters};
use super::status::{reason, reason_of, status};
use crate::error::{ErrorKind, InferError};
use crate::server::state::{Reservation, ServerState};
use crate::telemetry::context::{Answered, Context, Exchange};
use crate::telemetry::metrics::Protocol;

/// Requests of one stream that are worked on at once; with more, it is not read further.
const MAX_IN_FLIGHT: usize = 256;

/// Answers that wait to be sent; beyond, requests in flight wait with theirs.
const MAX_UNSENT: usize = 16;

/// Asks for, and marks, the last answer to a request. Here each is the last.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";
const FINAL: &str = "triton_final_response";

/// Parameters of a request and of its answer that have no header of their own on a stream.
const REQUEST_ID: &str = "x-request-id";
const TRACEPARENT: &str = "traceparent";

type Answer = Result<pb::ModelStreamInferResponse, Status>;

/// Starts to answer a stream. It ends with the requests, at the call's deadline, with an error of the stream as a
/// whole, or when the server stops; what it has taken is answered first. Dropping what this returns drops the
/// requests in flight.
pub(super) fn start(
    state: Arc<ServerState>,
    call: Arc<Call>,
    request: Request<Streaming<ModelInferRequest>>,
) -> ReceiverStream<Answer> {
    let (answers, receiver) = mpsc::channel(MAX_UNSENT);
    let (metadata, _, requests) = request.into_parts();
    let answering = Answering { state, call, metadata: Arc::new(metadata), answers };
    tokio::spawn(answering.run(requests));
    ReceiverStream::new(receiver)
}

struct Answering {
    state: Arc<ServerState>,
    call: Arc<Call>,
    metadata: Arc<MetadataMap>,
    answers: mpsc::Sender<Answer>,
}

impl Answering {
    async fn run(self, mut requests: Streaming<ModelInferRequest>) {
        let end = match self.call.deadline {
            None => self.read(&mut requests).await,
            Some(deadline) => {
                let read = tokio::time::timeout_at(deadline.into(), self.read(&mut requests));
                read.await.unwrap_or_else(|_| {
                    let text = "grpc-timeout: the stream was open for longer";
                    Err(InferError::new(ErrorKind::DeadlineExceeded, text).into())
                })
            }
        };
        let end = end.and_then(|()| {
            // The client did not end it: that would be no answer to requests that it has sent since.
            if *self.state.closing().borrow() {
                return Err(InferError::new(ErrorKind::Draining, "the server is shutting down").into());
            }
            Ok(())
        });
        if let Err(End(status)) = end {
            let kind = reason(status.metadata().as_ref()).unwrap_or_else(|| reason_of(status.code()));
            self.state.telemetry.count_error(Some(Protocol::OipGrpc), kind);
            let _ = self.answers.send(Err(status)).await;
        }
    }

    /// Reads requests and sends answers until there are no more of either.
    async fn read(&self, requests: &mut Streaming<ModelInferRequest>) -> Result<(), End> {
        let mut in_flight = JoinSet::new();
        let mut reading = Ok(());
        let mut more = true;
        let mut number = 0;
        while more || !in_flight.is_empty() {
            tokio::select! {
                // The client has gone; dropping the requests takes them out of the queue.
                () = self.answers.closed() => return Ok(()),
                Some(answer) = in_flight.join_next(), if !in_flight.is_empty() => {
                    let answer = answer.unwrap_or_else(|e| {
                        let error = InferError::new(ErrorKind::Internal, format!("a request was lost: {e}"));
                        failed(String::new(), error)
                    });
                    if self.answers.send(Ok(answer)).await.is_err() {
                        return Ok(());
                    }
                }
                request = requests.next(), if more && in_flight.len() < MAX_IN_FLIGHT => match request {
                    Some(Ok(request)) => {
                        number += 1;
                        let id = text(&request.parameters, REQUEST_ID);
                        let parent = text(&request.parameters, TRACEPARENT);
                        let exchange = self.state.observer.next(&self.call.context, number, id, parent);
                        let answer = answer(
                            Arc::clone(&self.state),
                            Arc::clone(&self.call),
                            Arc::clone(&self.metadata),
                            request,
                            self.call.release(),
                            exchange,
                        );
                        in_flight.spawn(answer);
                    }
                    Some(Err(status)) => (more, reading) = (false, Err(End(status))),
                    None => more = false,
                },
            }
        }
        reading
    }
}

/// Why a stream ends before its requests do.
struct End(Status);

impl From<InferError> for End {
    fn from(error: InferError) -> Self {
        Self(status(&error))
    }
}

async fn answer(
    state: Arc<ServerState>,
    call: Arc<Call>,
    metadata: Arc<MetadataMap>,
    request: ModelInferRequest,
    reservation: Option<Reservation>,
    exchange: Exchange,
) -> pb::ModelStreamInferResponse {
    let context = exchange.context();
    let id = request.id.clone();
    let wants_final = request.parameters.is_true(WANTS_FINAL);
    let mut code = 0;
    let mut answer = match infer(&state, request, &metadata, &call, context, reservation).await {
        Ok(response) => {
            pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
        }
        Err(error) => {
            state.telemetry.count_error(Some(Protocol::OipGrpc), error.kind);
            context.failed(error.kind);
            code = error.kind.status().grpc;
            failed(id, error)
        }
    };
    if let Some(response) = &mut answer.infer_response {
        mark(response, context);
        if wants_final {
            add(response, FINAL, Choice::BoolParam(true));
        }
    }
    context.answers(|| answer.encoded_len());
    exchange.finish(Answered::Grpc(code), None);
    answer
}

/// What is a header elsewhere.
fn mark(response: &mut pb::ModelInferResponse, context: &Context) {
    add(response, REQUEST_ID, Choice::StringParam(context.id().to_owned()));
    if let Some(traceparent) = context.traceparent() {
        add(response, TRACEPARENT, Choice::StringParam(traceparent.to_str().unwrap_or("").to_owned()));
    }
}

fn add(response: &mut pb::ModelInferResponse, name: &str, value: Choice) {
    response.parameters.insert(name.to_owned(), pb::InferParameter { parameter_choice: Some(value) });
}

fn text<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a str> {
    match parameters.get(name)? {
        Parameter::Text(text) => Some(text),
        Parameter::Bool(_) | Parameter::Int(_) | Parameter::Uint(_) | Parameter::Double(_) => None,
    }
}

/// The answer that is an error: `id` says whose.
fn failed(id: String, error: InferError) -> pb::ModelStreamInferResponse {
    pb::ModelStreamInferResponse {
        error_message: error.message,
        infer_response: Some(pb::ModelInferResponse { id, ..pb::ModelInferResponse::default() }),
    }
}
