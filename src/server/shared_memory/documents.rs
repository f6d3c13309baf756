//! `/v2/systemsharedmemory`: what is registered, and what is to be.

use hyper::body::Incoming;
use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::Peer;
use crate::error::{ErrorKind, InferError};
use crate::server::body::{self, in_place};
use crate::server::reply::{JSON, Reply, document, reply};
use crate::server::route::SharedMemoryRoute;
use crate::server::state::ServerState;

/// What a client says of a region.
#[derive(Deserialize)]
struct Register {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// Answers a request for `region`, or for all where there is none.
///
/// # Errors
/// `Unimplemented` and `InvalidArgument` for who may not, `UnknownRegion`, `MalformedJson`, and what
/// [`body::collect`] and [`super::Regions::register`] give.
pub async fn answer(
    state: &ServerState,
    asked: SharedMemoryRoute,
    region: Option<&str>,
    peer: Option<Peer>,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Reply, InferError> {
    let regions = state.shared_memory.admit(peer)?;
    match (asked, region) {
        (SharedMemoryRoute::Status, _) => return Ok(document(&regions.status(region)?)),
        (SharedMemoryRoute::Register, Some(name)) => {
            let collected = body::collect(state, headers, incoming).await?;
            let body =
                in_place(collected.bytes.len(), || serde_json::from_slice::<Register>(&collected.bytes));
            let body = body.map_err(|e| {
                let text =
                    format!("expected {{\"key\": string, \"offset\": integer, \"byte_size\": integer}}: {e}");
                InferError::new(ErrorKind::MalformedJson, text)
            })?;
            regions.register(name, &body.key, body.offset, body.byte_size)?;
        }
        (SharedMemoryRoute::Register, None) => {
            return Err(InferError::new(ErrorKind::InvalidArgument, "name the region in the path"));
        }
        (SharedMemoryRoute::Unregister, _) => regions.unregister(region),
    }
    Ok(reply(StatusCode::OK, JSON, ""))
}
