//! TensorRT plans: what they are built from, and the cache that keeps them.
//!
//! A [`request::PlanRequest`] names a model version and a GPU. [`cache::PlanCache`] hashes all that its plan
//! depends on (`key`), and answers from its folder or through a [`builder::Builder`], of which
//! [`tensorrt::TensorRtBuilder`] is the real one. Nothing here runs a plan: that is the backend's part.

pub mod builder;
pub mod cache;
pub mod command;
mod folder;
mod key;
mod lock;
pub mod network;
mod note;
mod profile;
pub mod progress;
pub mod request;
mod store;
pub mod tensorrt;
#[cfg(test)]
mod tests;
