//! `POST /v2/repository/…`: Triton's `model_repository` extension over HTTP.

use hyper::body::Incoming;
use hyper::{HeaderMap, StatusCode};

use super::body;
use super::oip::repository::{IndexLine, parse_index, parse_load, parse_unload};
use super::reply::{JSON, Reply, document, reply};
use super::route::RepositoryRoute;
use super::state::ServerState;
use crate::error::{ErrorKind, InferError};

/// Answers a request about the repository; `named` where the path names one, which there is only one of.
///
/// # Errors
/// Those of [`crate::repository::Manager`], and of reading the body.
pub async fn answer(
    state: &ServerState,
    asked: RepositoryRoute,
    model: &str,
    named: bool,
    headers: &HeaderMap,
    incoming: Incoming,
) -> Result<Reply, InferError> {
    if named {
        let text = "there is one model repository, without a name: leave its name out of the path";
        return Err(InferError::new(ErrorKind::Unimplemented, text));
    }
    // The body's part of the budget goes back before a load is waited for.
    let bytes = body::collect(state, headers, incoming).await?.bytes;
    let bytes = bytes.as_ref();
    match asked {
        RepositoryRoute::Index => {
            let ready = parse_index(bytes)?;
            // It reads a folder.
            let entries = tokio::task::block_in_place(|| state.repository.index(ready));
            Ok(document(&entries.iter().map(IndexLine::from).collect::<Vec<_>>()))
        }
        RepositoryRoute::Load => {
            let parameters = body::in_place(bytes.len(), || parse_load(bytes))?;
            state.repository.load(model, parameters).await.map(|()| done())
        }
        RepositoryRoute::Unload => {
            parse_unload(bytes)?;
            state.repository.unload(model).await.map(|()| done())
        }
    }
}

fn done() -> Reply {
    reply(StatusCode::OK, JSON, "")
}
