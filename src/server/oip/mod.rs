//! Open Inference Protocol v2 over HTTP, with Triton's extensions: bodies to requests, responses to bodies.
//!
//! Nothing here knows sockets or headers beyond one header's value: `server::http` hands in a body and sends
//! what comes back. [`parse`] reads `POST /v2/models/{model}/infer`, [`resolve`] holds the request against
//! the model, [`write()`] encodes the answer. `docs/compatibility.md` says what differs from Triton.
//!
//! **Source:** <https://github.com/kserve/open-inference-protocol> and the extension pages of
//! <https://github.com/triton-inference-server/server/tree/main/docs/protocol>.

mod binary;
pub mod checks;
mod classification;
mod config;
mod json;
mod metadata;
mod parameters;
mod place;
mod raw;
pub mod repository;
mod request;
pub mod resolve;
mod response;
mod statistics;
mod tensor_json;
#[cfg(test)]
mod tests;

pub use binary::split_elements;
pub use classification::{Classes, classify};
pub use config::{
    DynamicBatching, InstanceGroup, LatestVersions, ModelConfig, Parameter, QueuePolicy, TensorConfig,
    VersionPolicy, data_type,
};
pub use metadata::{EXTENSIONS, ModelMetadata, ServerMetadata, TensorMetadata};
pub use place::{NoSharedMemory, Place, SharedMemory};
pub use raw::RawRequest;
pub use request::{InferInput, InferRequest, InputData, Parsed, RequestedOutput, parse, parse_keyed, shared};
pub use response::{Answered, Encoded, InferResponse, OutputTensor, answered, encode, error_body, write};
pub use statistics::{
    BatchStatistics, DurationStatistics, InferStatistics, MemoryUsage, ModelStatistics, ResponseStatistics,
    Statistics,
};
