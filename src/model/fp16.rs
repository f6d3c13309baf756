//! An ONNX graph in 32-bit floats, rewritten to compute in 16.
