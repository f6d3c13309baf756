//! `grpc.health.v1.Health`: whether the server, a service or a model gets requests.
//!
//! Asked for at each call and not kept anywhere, so it cannot be out of date.
//!
//! Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::status::status;
use super::{INFERENCE, PIPELINE};
use crate::error::{ErrorKind, InferError, shorten};
use crate::server::state::ServerState;

/// How often a watched state is looked at by itself: an instance that is lost, or a shutdown, tells nobody.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The state of a service by name: empty for the server, one of ours, or a model.
fn serving(state: &ServerState, service: &str) -> Option<ServingStatus> {
    let serving = |yes| if yes { ServingStatus::Serving } else { ServingStatus::NotServing };
    if service.is_empty() || service == INFERENCE || service == PIPELINE {
        return Some(serving(state.ready()));
    }
    match state.registry.find(service, None) {
        Ok(_) => Some(serving(!state.draining())),
        Err(e) if e.kind == ErrorKind::UnknownModel => None,
        Err(_) => Some(ServingStatus::NotServing),
    }
}

#[async_trait]
impl Health for ServerState {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        let serving = serving(self, service).ok_or_else(|| {
            let text = format!(
                "there is no service \"{}\"; the name is empty, {INFERENCE}, {PIPELINE} or a model's",
                shorten(service)
            );
            status(&InferError::new(ErrorKind::UnknownModel, text))
        })?;
        Ok(Response::new(HealthCheckResponse { status: serving as i32 }))
    }

    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let Some(state) = request.extensions().get::<Arc<ServerState>>().cloned() else {
            return Err(status(&InferError::new(ErrorKind::Internal, "the call belongs to no server")));
        };
        let (answers, receiver) = mpsc::channel(1);
        tokio::spawn(watch(state, request.into_inner().service, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Tells the state of `service`, and again whenever it has changed, until the client leaves or the server stops.
async fn watch(
    state: Arc<ServerState>,
    service: String,
    answers: mpsc::Sender<Result<HealthCheckResponse, Status>>,
) {
    let (mut changes, mut closing) = (state.repository.changes(), state.closing());
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        // A service that is not there may come: a watch of it goes on.
        let now = serving(&state, &service).unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(now) {
            told = Some(now);
            if answers.send(Ok(HealthCheckResponse { status: now as i32 })).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = answers.closed() => return,
            _ = closing.wait_for(|c| *c) => break,
            Ok(()) = changes.changed() => {}
            _ = tick.tick() => {}
        }
    }
    let error = InferError::new(ErrorKind::Draining, "the server is shutting down");
    let _ = answers.send(Err(status(&error))).await;
}
