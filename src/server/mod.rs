//! The network side: connections, routes, and one module for each protocol. Nothing below knows HTTP.

pub mod activity;
pub mod base64;
pub mod body;
pub mod connection;
pub mod console;
pub mod documents;
pub mod grpc;
pub mod http;
pub mod infer;
pub mod listener;
pub mod logging;
pub mod multipart;
pub mod npy;
pub mod numpy;
pub mod oip;
pub mod openapi;
pub mod paddle;
pub mod pipeline;
pub mod plain;
pub mod reply;
mod repository;
pub mod route;
pub mod rows;
pub mod shared_memory;
pub mod state;
pub mod sticky;
pub mod tls;
pub mod v2;

#[cfg(test)]
mod mutate;
#[cfg(test)]
use mutate::mutations;
