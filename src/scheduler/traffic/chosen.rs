//! From the versions that may answer to the one that does.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use smallvec::SmallVec;

use super::{Sticky, Traffic};
use crate::error::InferError;
use crate::scheduler::request::{InferRequest, InferResponse};
use crate::scheduler::served::ServedModel;
use crate::scheduler::shadow::{Copied, Shadow};
use crate::telemetry::metrics::Protocol;

/// The versions that may answer a request, as they were when it came in.
#[derive(Debug)]
pub struct Target {
    traffic: Arc<Traffic>,
    /// The version that the request names, or one that is loaded, for the case that none is ready any more.
    named: Option<Arc<ServedModel>>,
    otherwise: Arc<ServedModel>,
}

impl Target {
    /// Only this version.
    pub(in crate::scheduler) fn named(traffic: Arc<Traffic>, served: Arc<ServedModel>) -> Self {
        Self { traffic, named: Some(Arc::clone(&served)), otherwise: served }
    }

    /// Whichever `traffic` picks; `ready` is one of them.
    pub(in crate::scheduler) fn any(traffic: Arc<Traffic>, ready: Arc<ServedModel>) -> Self {
        Self { traffic, named: None, otherwise: ready }
    }

    /// Name of the parameter that [`Self::pick`] may ask for, so that a protocol knows it as the model's own.
    #[must_use]
    pub fn sticky_parameter(&self) -> Option<&str> {
        self.traffic.sticky_parameter.as_deref()
    }

    /// The version that answers this request: the one it names; else the one that its sticky key belongs to; else
    /// one by the weights. Where that one is not ready, another that is.
    #[must_use]
    pub fn pick(&self, by: &dyn Sticky) -> Chosen {
        let picked = match &self.named {
            Some(named) => named,
            None => self.traffic.pick(by).unwrap_or(&self.otherwise),
        };
        let shadow = self.traffic.shadow.as_ref().filter(|s| s.version() != picked.version).map(Arc::clone);
        Chosen { served: Arc::clone(picked), shadow, copies: Mutex::default() }
    }
}

/// The version that answers a request.
///
/// Dropped when the answer is written, it lets the copy of the request run, where one was made: so it is to be held
/// until then.
#[derive(Debug)]
pub struct Chosen {
    served: Arc<ServedModel>,
    shadow: Option<Arc<Shadow>>,
    /// Copies of requests that have their answers. More than one only where a caller infers more than once.
    copies: Mutex<SmallVec<[Copied; 1]>>,
}

impl Deref for Chosen {
    type Target = ServedModel;

    fn deref(&self) -> &ServedModel {
        &self.served
    }
}

impl Chosen {
    /// [`ServedModel::infer`], and a copy of the request for the shadow version, if its turn has come.
    ///
    /// # Errors
    /// As there.
    pub async fn infer(
        &self,
        request: InferRequest,
        protocol: Protocol,
    ) -> Result<InferResponse, InferError> {
        let Some(shadow) = &self.shadow else { return self.served.infer(request, protocol).await };
        let copy = shadow.copy(&self.served, &request);
        let start = Instant::now();
        let result = self.served.infer(request, protocol).await;
        if let (Some(copy), Ok(response)) = (copy, &result)
            && let Some(copied) = copy.answered(response, start.elapsed())
        {
            self.copies.lock().unwrap_or_else(PoisonError::into_inner).push(copied);
        }
        result
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        let copies = self.copies.get_mut().unwrap_or_else(PoisonError::into_inner);
        copies.drain(..).for_each(Copied::start);
    }
}
