//! Server reflection, v1 and v1alpha: what the protocols look like, for `grpcurl` and its like.

use std::pin::Pin;
use std::sync::LazyLock;

use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_reflection::server::Builder;

use super::messages::Messages;

/// What build.rs made of `proto/`.
const PROTOCOLS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Handler = Box<dyn Fn(Request<Messages>) -> Answer + Send + Sync>;

static V1: LazyLock<Handler> = LazyLock::new(|| {
    let server = builder().build_v1().expect("build.rs compiled the descriptors");
    Box::new(move |request| {
        let mut server = server.clone();
        Box::pin(async move { server.call(request).await.unwrap_or_else(|e| match e {}) })
    })
});

static V1_ALPHA: LazyLock<Handler> = LazyLock::new(|| {
    let server = builder().build_v1alpha().expect("build.rs compiled the descriptors");
    Box::new(move |request| {
        let mut server = server.clone();
        Box::pin(async move { server.call(request).await.unwrap_or_else(|e| match e {}) })
    })
});

fn builder() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(PROTOCOLS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Answers a call of `grpc.reflection.v1.ServerReflection`.
pub(super) fn v1(request: Request<Messages>) -> Answer {
    V1(request)
}

/// Answers a call of `grpc.reflection.v1alpha.ServerReflection`.
pub(super) fn v1_alpha(request: Request<Messages>) -> Answer {
    V1_ALPHA(request)
}
