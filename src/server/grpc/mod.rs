//! gRPC: Open Inference Protocol with Triton's extensions, PaddleServing's pipeline, health and reflection.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tonic::{Code, Status};

use super::state::ServerState;

/// Answers one call of any service.
pub async fn answer(_state: Arc<ServerState>, _request: Request<Incoming>) -> Response<tonic::body::Body> {
    Status::new(Code::Unimplemented, "there is no such method").into_http()
}
