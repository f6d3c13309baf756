// The C interface of the TensorRT shim: one table of functions for each header set. `sys.rs` declares the same.
//
// No C++ type crosses and nothing throws through it. A call that fails passes its text to a `visord_trt_text`
// before it returns; a call that succeeds does not touch it.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Severities as in nvinfer1::ILogger: 0 internal error, 1 error, 2 warning, 3 info, 4 verbose.
typedef void (*visord_trt_log)(int32_t severity, const char* message);

typedef struct {
  void* user;
  void (*put)(void* user, const char* text, size_t length);
} visord_trt_text;

enum {
  VISORD_TRT_OK = 0,
  VISORD_TRT_FAILED = 1,       // the call returned an error
  VISORD_TRT_NO_DRIVER = 2,    // the library cannot reach a CUDA driver or device
  VISORD_TRT_OPEN = 3,         // the library cannot be loaded, or is not the one wanted
  VISORD_TRT_PARSE = 4,        // the ONNX parser refuses the model; each error went to `parser_error`
  VISORD_TRT_INTERFACE = 5,    // the model's inputs or outputs are not what the options say
  VISORD_TRT_UNSUPPORTED = 6,  // this major does not have what the options ask for
  VISORD_TRT_CANCELLED = 7     // `progress` asked to stop
};

typedef struct {
  int32_t code;
  const char* call;  // of static lifetime: TensorRT's function that failed, or null
} visord_trt_status;

typedef struct {
  int32_t major, minor, patch, build;
} visord_trt_version;

enum { VISORD_TRT_MAX_DIMS = 8 };
typedef struct {
  int32_t rank;  // -1: unknown
  int64_t d[VISORD_TRT_MAX_DIMS];
} visord_trt_dims;

typedef struct {
  const char* name;
  visord_trt_dims min, opt, max;
} visord_trt_profile_input;

typedef struct {
  const visord_trt_profile_input* inputs;
  size_t count;
} visord_trt_profile;

enum { VISORD_TRT_COMPATIBLE_NONE = 0, VISORD_TRT_COMPATIBLE_AMPERE_PLUS = 1, VISORD_TRT_COMPATIBLE_SAME_CC = 2 };

typedef struct {
  const void* onnx;
  size_t onnx_bytes;
  const char* onnx_path;  // external data is looked for beside it
  int32_t fp16, tf32, int8;
  uint64_t workspace_bytes;     // 0: the library's default
  int32_t optimization_level;   // -1: the library's default
  int32_t hardware_compatibility;
  const visord_trt_profile* profiles;
  size_t profile_count;
  const int32_t* compute_capabilities;  // 10 * major + minor
  size_t compute_capability_count;
  const void* timing_cache;
  size_t timing_cache_bytes;
} visord_trt_build_options;

enum { VISORD_TRT_PHASE_START = 0, VISORD_TRT_PHASE_STEP = 1, VISORD_TRT_PHASE_FINISH = 2 };

// What a build gives back. `progress` is called from any thread, and from several at once; the others on the
// thread that called `build`, when `progress` is not.
typedef struct {
  void* user;
  void (*plan)(void* user, const void* data, size_t bytes);
  void (*timing_cache)(void* user, const void* data, size_t bytes);
  // `node` is -1 where the error is not one node's; texts may be null.
  void (*parser_error)(void* user, int32_t code, int32_t node, const char* name, const char* op,
                       const char* description);
  // `number` is the count of steps at the start, the step that is done otherwise. 0 stops the build.
  int32_t (*progress)(void* user, int32_t kind, const char* phase, const char* parent, int32_t number);
} visord_trt_sink;

typedef struct visord_trt_library visord_trt_library;
typedef struct visord_trt_engine visord_trt_engine;
typedef struct visord_trt_context visord_trt_context;

// Element types; the numbers are this interface's own.
enum {
  VISORD_TRT_OTHER = -1,
  VISORD_TRT_FP32 = 0,
  VISORD_TRT_FP16 = 1,
  VISORD_TRT_BF16 = 2,
  VISORD_TRT_INT8 = 3,
  VISORD_TRT_INT32 = 4,
  VISORD_TRT_INT64 = 5,
  VISORD_TRT_UINT8 = 6,
  VISORD_TRT_BOOL = 7
};

typedef struct {
  const char* name;  // lives as long as the engine
  int32_t is_input;
  int32_t is_host;   // read or written through a host pointer (shape tensors)
  int32_t datatype;
  visord_trt_dims shape;
} visord_trt_io_tensor;

typedef struct {
  visord_trt_version headers;
  size_t layout[8];  // of the structs above, for a test: sys::LAYOUT

  // `parser` may be null. `parser_text` is told why the parser cannot be used; the library opens without it.
  visord_trt_status (*open)(const char* library, const char* parser, visord_trt_log log, visord_trt_library** out,
                            visord_trt_text parser_text, visord_trt_text error);
  void (*close)(visord_trt_library*);
  visord_trt_version (*version)(const visord_trt_library*);
  const char* (*path)(const visord_trt_library*);  // the file that was loaded; null where the loader cannot say
  int32_t (*can_build)(const visord_trt_library*);

  visord_trt_status (*build)(visord_trt_library*, const visord_trt_build_options*, const visord_trt_sink*,
                             visord_trt_text error);

  visord_trt_status (*deserialize)(visord_trt_library*, const void* plan, size_t bytes, visord_trt_engine** out,
                                   visord_trt_text error);
  void (*engine_free)(visord_trt_engine*);
  int32_t (*engine_io_count)(const visord_trt_engine*);
  visord_trt_status (*engine_io)(visord_trt_engine*, int32_t index, visord_trt_io_tensor* out, visord_trt_text error);
  int32_t (*engine_profile_count)(const visord_trt_engine*);
  // `out` has three elements: min, opt, max.
  visord_trt_status (*engine_profile_shape)(visord_trt_engine*, const char* name, int32_t profile, visord_trt_dims* out,
                                            visord_trt_text error);
  int64_t (*engine_device_memory_bytes)(const visord_trt_engine*);

  visord_trt_status (*context_create)(visord_trt_engine*, visord_trt_context** out, visord_trt_text error);
  void (*context_free)(visord_trt_context*);
  visord_trt_status (*context_set_profile)(visord_trt_context*, int32_t profile, void* stream, visord_trt_text error);
  visord_trt_status (*context_set_input_shape)(visord_trt_context*, const char* name, const int64_t* shape,
                                               int32_t rank, visord_trt_text error);
  visord_trt_status (*context_tensor_shape)(const visord_trt_context*, const char* name, visord_trt_dims* out,
                                            visord_trt_text error);
  visord_trt_status (*context_set_tensor_address)(visord_trt_context*, const char* name, void* address,
                                                  visord_trt_text error);
  visord_trt_status (*context_enqueue)(visord_trt_context*, void* stream, visord_trt_text error);
  // Before the first enqueue: contexts are created without memory of their own.
  visord_trt_status (*context_set_device_memory)(visord_trt_context*, void* address, int64_t bytes,
                                                 visord_trt_text error);
} visord_trt_api;

#ifdef __cplusplus
}
#endif
