//! From an admitted request to a batch on an instance and back: one bounded queue a model version, one thread
//! an instance, and a pure decision between them.

pub mod batcher;
pub mod guard;
mod instance;
pub mod postprocess;
pub mod queue;
pub mod registry;
pub mod request;
pub mod served;
mod shadow;
#[cfg(test)]
mod tests;
pub mod traffic;
