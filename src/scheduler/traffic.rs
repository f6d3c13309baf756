//! Which version of a model answers a request.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use super::request::{InferRequest, InferResponse};
use super::served::ServedModel;
use crate::error::InferError;
use crate::telemetry::metrics::Protocol;

/// What a request offers to be recognised by, so that one user's requests stay with one version.
pub trait Sticky {
    /// A header of HTTP, or metadata of gRPC; the first of that name that is text.
    fn header(&self, name: &str) -> Option<&str>;
    /// A parameter of the request: of the query, of the protocol's `parameters`, or a key of PaddleServing.
    fn parameter(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// The versions that may answer a request, as they were when it came in.
#[derive(Debug)]
pub struct Target {
    served: Arc<ServedModel>,
}

impl Target {
    pub(super) fn fixed(served: Arc<ServedModel>) -> Self {
        Self { served }
    }

    /// The version that answers this request.
    #[must_use]
    pub fn pick(&self, _by: &dyn Sticky) -> Chosen {
        Chosen { served: Arc::clone(&self.served) }
    }
}

/// The version that answers a request.
#[derive(Debug)]
pub struct Chosen {
    served: Arc<ServedModel>,
}

impl Deref for Chosen {
    type Target = ServedModel;

    fn deref(&self) -> &ServedModel {
        &self.served
    }
}

impl Chosen {
    /// [`ServedModel::infer`].
    ///
    /// # Errors
    /// As there.
    pub async fn infer(
        &self,
        request: InferRequest,
        protocol: Protocol,
    ) -> Result<InferResponse, InferError> {
        self.served.infer(request, protocol).await
    }
}
