//! Declarations of the C++ shim: the same as `shim.h`, in its order. A test
//! compares `LAYOUT`.

use std::ffi::{c_char, c_void};
#[cfg(test)]
use std::mem::offset_of;

/// Receives a line of TensorRT's log; severities as in `nvinfer1::ILogger`.
pub(super) type Log = extern "C" fn(severity: i32, message: *const c_char);

/// Receives the text of a failure.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) user: *mut c_void,
    pub(super) put: extern "C" fn(user: *mut c_void, text: *const c_char, length: usize),
}

pub(super) const OK: i32 = 0;
#[allow(dead_code, reason = "the shim's codes, whole")]
pub(super) const FAILED: i32 = 1;
pub(super) const NO_DRIVER: i32 = 2;
pub(super) const OPEN: i32 = 3;
pub(super) const PARSE: i32 = 4;
pub(super) const INTERFACE: i32 = 5;
pub(super) const UNSUPPORTED: i32 = 6;
pub(super) const CANCELLED: i32 = 7;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Status {
    pub(super) code: i32,
    /// A string literal of the shim, or null.
    pub(super) call: *const c_char,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) major: i32,
    pub(super) minor: i32,
    pub(super) patch: i32,
    pub(super) build: i32,
}

pub(super) const MAX_DIMS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Dims {
    pub(super) rank: i32,
    pub(super) d: [i64; MAX_DIMS],
}

#[repr(C)]
pub(super) struct ProfileInput {
    pub(super) name: *const c_char,
    pub(super) min: Dims,
    pub(super) opt: Dims,
    pub(super) max: Dims,
}

#[repr(C)]
pub(super) struct Profile {
    pub(super) inputs: *const ProfileInput,
    pub(super) count: usize,
}

pub(super) const COMPATIBLE_NONE: i32 = 0;
pub(super) const COMPATIBLE_AMPERE_PLUS: i32 = 1;
pub(super) const COMPATIBLE_SAME_CC: i32 = 2;

#[repr(C)]
pub(super) struct BuildOptions {
    pub(super) onnx: *const c_void,
    pub(super) onnx_bytes: usize,
    pub(super) onnx_path: *const c_char,
    pub(super) fp16: i32,
    pub(super) tf32: i32,
    pub(super) int8: i32,
    pub(super) workspace_bytes: u64,
    pub(super) optimization_level: i32,
    pub(super) hardware_compatibility: i32,
    pub(super) profiles: *const Profile,
    pub(super) profile_count: usize,
    pub(super) compute_capabilities: *const i32,
    pub(super) compute_capability_count: usize,
    pub(super) timing_cache: *const c_void,
    pub(super) timing_cache_bytes: usize,
}

pub(super) const PHASE_START: i32 = 0;
pub(super) const PHASE_STEP: i32 = 1;
#[allow(dead_code, reason = "the shim's codes, whole")]
pub(super) const PHASE_FINISH: i32 = 2;

#[repr(C)]
pub(super) struct Sink {
    pub(super) user: *mut c_void,
    pub(super) plan: extern "C" fn(user: *mut c_void, data: *const c_void, bytes: usize),
    pub(super) timing_cache: extern "C" fn(user: *mut c_void, data: *const c_void, bytes: usize),
    pub(super) parser_error: extern "C" fn(
        user: *mut c_void,
        code: i32,
        node: i32,
        name: *const c_char,
        op: *const c_char,
        description: *const c_char,
    ),
    pub(super) progress: extern "C" fn(
        user: *mut c_void,
        kind: i32,
        phase: *const c_char,
        parent: *const c_char,
        number: i32,
    ) -> i32,
}

/// `visord_trt_library`, opaque.
#[repr(C)]
pub(super) struct Library {
    _opaque: [u8; 0],
}

/// `visord_trt_engine`, opaque.
#[repr(C)]
pub(super) struct Engine {
    _opaque: [u8; 0],
}

/// `visord_trt_context`, opaque.
#[repr(C)]
pub(super) struct Context {
    _opaque: [u8; 0],
}

pub(super) const FP32: i32 = 0;
pub(super) const FP16: i32 = 1;
pub(super) const BF16: i32 = 2;
pub(super) const INT8: i32 = 3;
pub(super) const INT32: i32 = 4;
pub(super) const INT64: i32 = 5;
pub(super) const UINT8: i32 = 6;
pub(super) const BOOL: i32 = 7;

#[repr(C)]
pub(super) struct IoTensor {
    pub(super) name: *const c_char,
    pub(super) is_input: i32,
    pub(super) is_host: i32,
    pub(super) datatype: i32,
    pub(super) shape: Dims,
}

/// One table for each header set. No field is ever null.
#[repr(C)]
pub(super) struct Api {
    pub(super) headers: Version,
    /// `LAYOUT`, as the C++ compiler has it.
    pub(super) layout: [usize; 8],
    pub(super) open: unsafe extern "C" fn(
        library: *const c_char,
        parser: *const c_char,
        log: Log,
        out: *mut *mut Library,
        parser_text: Text,
        error: Text,
    ) -> Status,
    pub(super) close: unsafe extern "C" fn(*mut Library),
    pub(super) version: unsafe extern "C" fn(*const Library) -> Version,
    pub(super) path: unsafe extern "C" fn(*const Library) -> *const c_char,
    pub(super) can_build: unsafe extern "C" fn(*const Library) -> i32,
    pub(super) build:
        unsafe extern "C" fn(*mut Library, *const BuildOptions, *const Sink, error: Text) -> Status,
    pub(super) deserialize: unsafe extern "C" fn(
        *mut Library,
        plan: *const c_void,
        bytes: usize,
        out: *mut *mut Engine,
        error: Text,
    ) -> Status,
    pub(super) engine_free: unsafe extern "C" fn(*mut Engine),
    pub(super) engine_io_count: unsafe extern "C" fn(*const Engine) -> i32,
    pub(super) engine_io:
        unsafe extern "C" fn(*mut Engine, index: i32, out: *mut IoTensor, error: Text) -> Status,
    pub(super) engine_profile_count: unsafe extern "C" fn(*const Engine) -> i32,
    pub(super) engine_profile_shape: unsafe extern "C" fn(
        *mut Engine,
        name: *const c_char,
        profile: i32,
        out: *mut Dims,
        error: Text,
    ) -> Status,
    pub(super) engine_device_memory_bytes: unsafe extern "C" fn(*const Engine) -> i64,
    pub(super) context_create:
        unsafe extern "C" fn(*mut Engine, out: *mut *mut Context, error: Text) -> Status,
    pub(super) context_free: unsafe extern "C" fn(*mut Context),
    pub(super) context_set_profile:
        unsafe extern "C" fn(*mut Context, profile: i32, stream: *mut c_void, error: Text) -> Status,
    pub(super) context_set_input_shape: unsafe extern "C" fn(
        *mut Context,
        name: *const c_char,
        shape: *const i64,
        rank: i32,
        error: Text,
    ) -> Status,
    pub(super) context_tensor_shape:
        unsafe extern "C" fn(*const Context, name: *const c_char, out: *mut Dims, error: Text) -> Status,
    pub(super) context_set_tensor_address:
        unsafe extern "C" fn(*mut Context, name: *const c_char, address: *mut c_void, error: Text) -> Status,
    pub(super) context_enqueue:
        unsafe extern "C" fn(*mut Context, stream: *mut c_void, error: Text) -> Status,
    pub(super) context_set_device_memory:
        unsafe extern "C" fn(*mut Context, address: *mut c_void, bytes: i64, error: Text) -> Status,
}

#[cfg(test)]
/// Sizes and offsets that both sides must agree on.
pub(super) const LAYOUT: [usize; 8] = [
    size_of::<Dims>(),
    size_of::<ProfileInput>(),
    size_of::<BuildOptions>(),
    offset_of!(BuildOptions, workspace_bytes),
    offset_of!(BuildOptions, timing_cache_bytes),
    size_of::<Sink>(),
    offset_of!(IoTensor, shape),
    offset_of!(Api, context_set_device_memory),
];

unsafe extern "C" {
    #[cfg(tensorrt_headers_10)]
    pub(super) fn visord_trt_api_10() -> *const Api;
    #[cfg(tensorrt_headers_11)]
    pub(super) fn visord_trt_api_11() -> *const Api;
    #[cfg(tensorrt_headers_rtx)]
    pub(super) fn visord_trt_api_rtx() -> *const Api;
}
