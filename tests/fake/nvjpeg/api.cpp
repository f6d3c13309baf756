// The functions of nvJPEG that visord calls.
#include "objects.h"

#include <cstdio>
#include <cstring>

using namespace fake;

static Copy copy_to(const char* call, const Image& image, const Header& header, const unsigned char* from, bool from_device) {
  size_t row = static_cast<size_t>(header.width) * 3;
  if (!image.channel[0]) die(call, "the first channel is null");
  if (image.pitch[0] < row) die(call, "rows of %zu bytes do not hold %d pixels", image.pitch[0], header.width);
  return {from, from_device, image.channel[0], image.pitch[0], row, static_cast<size_t>(header.height)};
}

static bool plain(const Header& h) { return h.precision == 8 && !h.other_process && h.ycc && !rejected(h); }

static bool engine_takes(const Header& h) {
  return plain(h) && !h.progressive && h.scans == 1 && h.sampling != "411" && h.sampling != "other";
}

static bool hybrid_takes(const Header& h) { return plain(h) && h.sampling != "other"; }

static bool interpolates() {
  int major = 12, minor = 4;
  if (const char* version = setting("VERSION")) sscanf(version, "%d.%d", &major, &minor);
  return major > 12 || (major == 12 && minor >= 1);
}


API nvjpegGetProperty(int type, int* value) {
  BEGIN;
  NOT_NULL(value);
  int numbers[3] = {12, 4, 0};
  if (const char* version = setting("VERSION")) sscanf(version, "%d.%d.%d", numbers, numbers + 1, numbers + 2);
  if (type < 0 || type > 2) return INVALID_PARAMETER;
  *value = numbers[type];
  return SUCCESS;
}

API nvjpegGetCudartProperty(int type, int* value) {
  BEGIN;
  NOT_NULL(value);
  if (type < 0 || type > 2) return INVALID_PARAMETER;
  *value = type == 0 ? 12 : type == 1 ? 4 : 0;
  return SUCCESS;
}

API nvjpegCreateEx(int backend, void* device_allocator, void* pinned_allocator, unsigned flags, void** handle) {
  BEGIN;
  NOT_NULL(handle);
  if (device_allocator || pinned_allocator) die(__func__, "the fake has no allocators of others");
  *handle = nullptr;
  if (!driver()) return EXECUTION_FAILED;
  void* context = nullptr;
  if (driver()->cuCtxGetCurrent(&context)) return EXECUTION_FAILED;
  if (!context) die(__func__, "no context is current: the real library would take the first device's");
  if (flags & ~(interpolates() ? unsigned{INTERPOLATE} : 0u)) return INVALID_PARAMETER;
  if (backend != DEFAULT && backend != HYBRID && backend != HARDWARE) return INVALID_PARAMETER;
  if (backend == HARDWARE && setting("HARDWARE") && !strcmp(setting("HARDWARE"), "0")) return ARCH_MISMATCH;
  auto* made = new Codec(backend, context);
  std::lock_guard<std::mutex> guard(living_mutex);
  living.insert(static_cast<Object*>(made));
  *handle = made;
  return SUCCESS;
}

API nvjpegDestroy(void* codec_handle) {
  BEGIN;
  USE(codec, Codec, Codec);
  if (codec->children) die(__func__, "%d objects made from the handle are still there", codec->children.load());
  codec->alive = false;
  return SUCCESS;
}

API nvjpegGetHardwareDecoderInfo(void* codec_handle, unsigned* engines, unsigned* cores) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(engines);
  NOT_NULL(cores);
  bool engine = codec->backend == HARDWARE;
  *engines = engine ? 1 : 0;
  *cores = engine ? 5 : 0;
  return SUCCESS;
}

API nvjpegJpegStreamCreate(void* codec_handle, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  *made = make<Stream>(Kind::Stream, codec.object);
  return SUCCESS;
}

API nvjpegJpegStreamDestroy(void* stream_handle) {
  BEGIN;
  USE(stream, Stream, Stream);
  end(stream, __func__);
  return SUCCESS;
}

static Status parse(const char* call, const unsigned char* data, size_t length, const Use<Stream>& stream, bool whole) {
  if (!data || !length) die(call, "no bytes");
  stream.idle(call);
  stream->parsed = false;
  if (!read_header(data, length, stream->header)) return BAD_JPEG;
  stream->data = data;
  stream->length = length;
  stream->parsed = true;
  stream->whole = whole;
  return SUCCESS;
}

API nvjpegJpegStreamParse(void* codec_handle, const unsigned char* data, size_t length, int, int, void* stream_handle) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(stream, Stream, Stream);
  return parse(__func__, data, length, stream, true);
}

API nvjpegJpegStreamParseHeader(void* codec_handle, const unsigned char* data, size_t length, void* stream_handle) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(stream, Stream, Stream);
  return parse(__func__, data, length, stream, false);
}

API nvjpegJpegStreamGetFrameDimensions(void* stream_handle, unsigned* width, unsigned* height) {
  BEGIN;
  USE(stream, Stream, Stream);
  NOT_NULL(width);
  NOT_NULL(height);
  if (!stream->parsed) die(__func__, "nothing was parsed");
  *width = static_cast<unsigned>(stream->header.width);
  *height = static_cast<unsigned>(stream->header.height);
  return SUCCESS;
}

API nvjpegJpegStateCreate(void* codec_handle, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  *made = make<State>(Kind::State, codec.object);
  return SUCCESS;
}

API nvjpegJpegStateDestroy(void* state_handle) {
  BEGIN;
  USE(state, State, State);
  end(state, __func__);
  state->staging.free();
  return SUCCESS;
}

API nvjpegDecodeBatchedInitialize(void* codec_handle, void* state_handle, int batch_size, int threads, int format) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(state, State, State);
  state.idle(__func__);
  if (state->decoder) die(__func__, "the state is one for phases");
  if (batch_size < 1 || threads < 1 || format != RGBI) {
    die(__func__, "batch of %d, %d threads, format %d", batch_size, threads, format);
  }
  state->batch_size = batch_size;
  return SUCCESS;
}

API nvjpegDecodeBatchedSupported(void* codec_handle, void* stream_handle, int* unsupported) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(stream, Stream, Stream);
  NOT_NULL(unsupported);
  if (!stream->parsed) die(__func__, "nothing was parsed");
  *unsupported = engine_takes(stream->header) ? 0 : 1;
  return SUCCESS;
}

API nvjpegDecodeBatched(void* codec_handle, void* state_handle, const unsigned char* const* data, const size_t* lengths,
                        Image* images, void* cuda_stream) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(state, State, State);
  state.idle(__func__);
  NOT_NULL(data);
  NOT_NULL(lengths);
  NOT_NULL(images);
  if (codec->backend != HARDWARE) die(__func__, "the handle is not one for the engine");
  if (state->batch_size == 0) die(__func__, "the state is not initialised, or its last batch failed");
  size_t size = static_cast<size_t>(state->batch_size);
  std::vector<Header> headers(size);
  size_t bytes = 0;
  auto fail = [&](Status status) {
    state->batch_size = 0;
    return status;
  };
  for (size_t i = 0; i < size; ++i) {
    if (!data[i] || !lengths[i]) die(__func__, "picture %zu has no bytes", i);
    if (!read_header(data[i], lengths[i], headers[i])) return fail(BAD_JPEG);
    if (!engine_takes(headers[i])) return fail(JPEG_NOT_SUPPORTED);
    bytes += bytes_of(headers[i]);
  }
  if (fails_now()) return fail(EXECUTION_FAILED);
  if (Status status = state->staging.grow(bytes)) return fail(status);
  auto job = std::make_unique<Job>(std::vector<Object*>{state.object});
  unsigned char* pixels = state->staging.bytes;
  for (size_t i = 0; i < size; ++i) {
    if (!decode(data[i], lengths[i], headers[i], pixels)) return fail(BAD_JPEG);
    job->copies.push_back(copy_to(__func__, images[i], headers[i], pixels, false));
    pixels += bytes_of(headers[i]);
    count_picture("hardware");
  }
  count_batch(size);
  return enqueue(__func__, cuda_stream, std::move(job));
}

API nvjpegDecodeParamsCreate(void* codec_handle, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  *made = make<Params>(Kind::Params, codec.object);
  return SUCCESS;
}

API nvjpegDecodeParamsDestroy(void* params_handle) {
  BEGIN;
  USE(params, Params, Params);
  end(params, __func__);
  return SUCCESS;
}

API nvjpegDecodeParamsSetOutputFormat(void* params_handle, int format) {
  BEGIN;
  USE(params, Params, Params);
  params->format = format;
  return SUCCESS;
}

API nvjpegDecoderCreate(void* codec_handle, int backend, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  if (backend != DEFAULT && backend != HYBRID) die(__func__, "backend %d does not decode in phases", backend);
  auto* decoder = make<Decoder>(Kind::Decoder, codec.object);
  decoder->backend = backend;
  *made = decoder;
  return SUCCESS;
}

API nvjpegDecoderDestroy(void* decoder_handle) {
  BEGIN;
  USE(decoder, Decoder, Decoder);
  end(decoder, __func__);
  return SUCCESS;
}

API nvjpegDecoderStateCreate(void* codec_handle, void* decoder_handle, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(decoder, Decoder, Decoder);
  NOT_NULL(made);
  auto* state = make<State>(Kind::State, codec.object);
  state->decoder = decoder.object;
  *made = state;
  return SUCCESS;
}

API nvjpegDecoderJpegSupported(void* decoder_handle, void* stream_handle, void* params_handle, int* unsupported) {
  BEGIN;
  USE(decoder, Decoder, Decoder);
  USE(stream, Stream, Stream);
  USE(params, Params, Params);
  NOT_NULL(unsupported);
  if (!stream->parsed) die(__func__, "nothing was parsed");
  *unsupported = hybrid_takes(stream->header) ? 0 : 1;
  return SUCCESS;
}

API nvjpegBufferPinnedCreate(void* codec_handle, void* allocator, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  if (allocator) die(__func__, "the fake has no allocators of others");
  *made = make<Buffer>(Kind::Pinned, codec.object);
  return SUCCESS;
}

API nvjpegBufferPinnedDestroy(void* buffer_handle) {
  BEGIN;
  USE(buffer, Buffer, Pinned);
  end(buffer, __func__);
  buffer->free();
  return SUCCESS;
}

API nvjpegBufferDeviceCreate(void* codec_handle, void* allocator, void** made) {
  BEGIN;
  USE(codec, Codec, Codec);
  NOT_NULL(made);
  if (allocator) die(__func__, "the fake has no allocators of others");
  *made = make<Buffer>(Kind::Device, codec.object);
  return SUCCESS;
}

API nvjpegBufferDeviceDestroy(void* buffer_handle) {
  BEGIN;
  USE(buffer, Buffer, Device);
  end(buffer, __func__);
  buffer->free();
  return SUCCESS;
}

API nvjpegStateAttachPinnedBuffer(void* state_handle, void* buffer_handle) {
  BEGIN;
  USE(state, State, State);
  USE(buffer, Buffer, Pinned);
  buffer.idle(__func__);
  state->pinned = buffer.object;
  return SUCCESS;
}

API nvjpegStateAttachDeviceBuffer(void* state_handle, void* buffer_handle) {
  BEGIN;
  USE(state, State, State);
  USE(buffer, Buffer, Device);
  buffer.idle(__func__);
  state->device = buffer.object;
  return SUCCESS;
}

API nvjpegDecodeJpegHost(void* codec_handle, void* decoder_handle, void* state_handle, void* params_handle,
                         void* stream_handle) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(decoder, Decoder, Decoder);
  USE(state, State, State);
  USE(params, Params, Params);
  USE(stream, Stream, Stream);
  if (state->decoder != decoder.object) die(__func__, "the state is of another decoder");
  if (!state->pinned || !state->device) die(__func__, "a buffer is not attached");
  if (params->format != RGBI) die(__func__, "output format %d", params->format);
  if (!stream->parsed || !stream->whole) die(__func__, "the picture was not parsed to its end");
  Use<Buffer> pinned(state->pinned, Kind::Pinned, __func__);
  pinned.idle(__func__);
  stream.idle(__func__);
  state->phase = Phase::Idle;
  if (!hybrid_takes(stream->header)) return JPEG_NOT_SUPPORTED;
  if (fails_now()) return EXECUTION_FAILED;
  if (Status status = pinned->grow(bytes_of(stream->header))) return status;
  if (!decode(stream->data, stream->length, stream->header, pinned->bytes)) return BAD_JPEG;
  state->header = stream->header;
  state->picture = stream.object;
  state->phase = Phase::Host;
  return SUCCESS;
}

API nvjpegDecodeJpegTransferToDevice(void* codec_handle, void* decoder_handle, void* state_handle, void* stream_handle,
                                     void* cuda_stream) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(decoder, Decoder, Decoder);
  USE(state, State, State);
  USE(stream, Stream, Stream);
  if (state->phase != Phase::Host) die(__func__, "the host phase was not the one before");
  if (state->picture != stream.object) die(__func__, "another JPEG stream than the host phase had");
  state.idle(__func__);
  Use<Buffer> pinned(state->pinned, Kind::Pinned, __func__);
  Use<Buffer> device(state->device, Kind::Device, __func__);
  device.idle(__func__);
  size_t bytes = bytes_of(state->header);
  if (Status status = device->grow(bytes)) return status;
  auto job = std::make_unique<Job>(std::vector<Object*>{state.object, pinned.object, device.object, stream.object});
  job->copies.push_back({pinned->bytes, false, device->bytes, bytes, bytes, 1});
  state->phase = Phase::Transferred;
  return enqueue(__func__, cuda_stream, std::move(job));
}

API nvjpegDecodeJpegDevice(void* codec_handle, void* decoder_handle, void* state_handle, Image* image, void* cuda_stream) {
  BEGIN;
  USE(codec, Codec, Codec);
  USE(decoder, Decoder, Decoder);
  USE(state, State, State);
  NOT_NULL(image);
  if (state->phase != Phase::Transferred) die(__func__, "the transfer was not the phase before");
  Use<Buffer> device(state->device, Kind::Device, __func__);
  auto job = std::make_unique<Job>(std::vector<Object*>{state.object, device.object});
  job->copies.push_back(copy_to(__func__, *image, state->header, device->bytes, true));
  state->phase = Phase::Idle;
  count_picture("hybrid");
  return enqueue(__func__, cuda_stream, std::move(job));
}
