//! TensorRT and its ONNX parser, opened at run time, through a C++ shim.
