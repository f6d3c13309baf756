//! TensorRT plans: what they are built from, and the cache that keeps them.
