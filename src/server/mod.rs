//! What clients talk to: protocols and the codecs under them.

pub mod base64;
pub mod multipart;
pub mod npy;
pub mod numpy;
pub mod paddle;

#[cfg(test)]
mod mutate;
#[cfg(test)]
use mutate::mutations;
