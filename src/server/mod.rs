//! What clients speak: each protocol's bytes to our requests, and our answers to its bytes.

pub mod oip;
