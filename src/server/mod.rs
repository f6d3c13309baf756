//! What clients talk to: protocols and the codecs under them.

pub mod npy;
pub mod numpy;
