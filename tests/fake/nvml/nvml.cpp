// NVML of the host device: as many GPUs as the fake CUDA has, whatever CUDA_VISIBLE_DEVICES says, with numbers that
// follow from their index (tests/gpu_metrics.rs knows them).
//
// VISORD_FAKE_NVML_FAULTS names a file that is read at every call; each line is `function=code` or `function=hang`, and
// `*` stands for every function of a device. VISORD_FAKE_NVML_MIG=1 makes every GPU of CUDA an instance of the one here.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

// nvmlReturn_t.
enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

struct Device {
  unsigned index;
  bool instance;
};

constexpr unsigned MOST = 16;
Device whole[MOST], instances[MOST];
bool initialized = false;

unsigned count() {
  const char* wanted = getenv("VISORD_FAKE_CUDA_DEVICES");
  unsigned n = wanted ? static_cast<unsigned>(atoi(wanted)) : 1;
  return n < MOST ? n : MOST;
}

bool mig() { return getenv("VISORD_FAKE_NVML_MIG"); }

// As tests/fake/cuda/counters.cpp makes them; the GPU that an instance is a part of has another one.
std::string uuid(const Device& d) {
  std::string text = d.instance ? "MIG-" : "GPU-";
  for (unsigned i = 0; i < 16; ++i) {
    char pair[4];
    unsigned byte = (0xf0 + d.index * 16 + i) & 0xff;
    if (mig() && !d.instance) byte ^= 0xff;
    snprintf(pair, sizeof pair, "%02x", byte);
    text += pair;
    if (i == 3 || i == 5 || i == 7 || i == 9) text += '-';
  }
  return text;
}

// What is to become of this call: a code, or it does not come back.
int fault(const char* function, bool of_device) {
  const char* name = getenv("VISORD_FAKE_NVML_FAULTS");
  FILE* file = name ? fopen(name, "r") : nullptr;
  if (!file) return OK;
  int code = OK;
  bool hang = false;
  char line[256];
  while (fgets(line, sizeof line, file)) {
    char* value = strchr(line, '=');
    if (!value) continue;
    *value++ = 0;
    if (strcmp(line, function) && !(of_device && !strcmp(line, "*"))) continue;
    if (!strncmp(value, "hang", 4)) hang = true;
    code = atoi(value);
  }
  fclose(file);
  while (hang) pause();
  return code;
}

int copy(const std::string& text, char* out, unsigned capacity) {
  if (!out) return INVALID_ARGUMENT;
  if (text.size() >= capacity) return INSUFFICIENT_SIZE;
  memcpy(out, text.c_str(), text.size() + 1);
  return OK;
}

}  // namespace

// A call about a device; `board` is what the instances of one GPU share.
#define DEVICE(pointer)                                 \
  if (!initialized) return UNINITIALIZED;               \
  if (int code = fault(__func__, true)) return code;    \
  if (!device || !(pointer)) return INVALID_ARGUMENT
#define BOARD(pointer) \
  DEVICE(pointer);     \
  if (device->instance) return NOT_SUPPORTED

API nvmlInit_v2() {
  if (int code = fault(__func__, false)) return code;
  for (unsigned i = 0; i < MOST; ++i) {
    whole[i] = {i, false};
    instances[i] = {i, true};
  }
  initialized = true;
  return OK;
}

API nvmlSystemGetDriverVersion(char* out, unsigned capacity) {
  return initialized ? copy("580.95.05", out, capacity) : UNINITIALIZED;
}

API nvmlDeviceGetHandleByUUID(const char* wanted, Device** device) {
  if (!initialized) return UNINITIALIZED;
  if (int code = fault(__func__, false)) return code;
  if (!wanted || !device) return INVALID_ARGUMENT;
  for (unsigned i = 0; i < count(); ++i) {
    for (Device* d : {&whole[i], &instances[i]}) {
      if ((mig() || !d->instance) && uuid(*d) == wanted) {
        *device = d;
        return OK;
      }
    }
  }
  return NOT_FOUND;
}

API nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device* device, Device** parent) {
  DEVICE(parent);
  if (!device->instance) return INVALID_ARGUMENT;
  *parent = &whole[device->index];
  return OK;
}

API nvmlDeviceGetIndex(Device* device, unsigned* index) {
  DEVICE(index);
  *index = device->index;
  return OK;
}

struct Utilization {
  unsigned gpu, memory;
};

API nvmlDeviceGetUtilizationRates(Device* device, Utilization* out) {
  BOARD(out);
  *out = {60 + device->index, 30 + device->index};
  return OK;
}

API nvmlDeviceGetDecoderUtilization(Device* device, unsigned* busy, unsigned* period) {
  BOARD(busy && period);
  *busy = 10 + device->index;
  *period = 167000;
  return OK;
}

API nvmlDeviceGetJpgUtilization(Device* device, unsigned* busy, unsigned* period) {
  BOARD(busy && period);
  *busy = 20 + device->index;
  *period = 167000;
  return OK;
}

struct Memory {
  unsigned version;
  unsigned long long total, reserved, free, used;
};

API nvmlDeviceGetMemoryInfo_v2(Device* device, Memory* out) {
  DEVICE(out);
  if (out->version != (sizeof(Memory) | 2u << 24)) return INVALID_ARGUMENT;
  out->total = device->instance ? 10ull << 30 : 80ull << 30;
  out->reserved = 1ull << 30;
  out->used = (device->index + 1ull) << 30;
  out->free = out->total - out->reserved - out->used;
  return OK;
}

API nvmlDeviceGetTemperature(Device* device, int sensor, unsigned* out) {
  BOARD(out);
  if (sensor != 0) return INVALID_ARGUMENT;
  *out = 50 + device->index;
  return OK;
}

API nvmlDeviceGetPowerUsage(Device* device, unsigned* milliwatts) {
  BOARD(milliwatts);
  *milliwatts = 300500 + 1000 * device->index;
  return OK;
}

API nvmlDeviceGetEnforcedPowerLimit(Device* device, unsigned* milliwatts) {
  BOARD(milliwatts);
  *milliwatts = 700000;
  return OK;
}

API nvmlDeviceGetTotalEnergyConsumption(Device* device, unsigned long long* millijoules) {
  BOARD(millijoules);
  *millijoules = 1234500 + device->index;
  return OK;
}

// Graphics, SM, memory, video.
API nvmlDeviceGetClockInfo(Device* device, int which, unsigned* megahertz) {
  BOARD(megahertz);
  const unsigned clocks[] = {1400, 1410, 2600, 1300};
  if (which < 0 || which > 3) return INVALID_ARGUMENT;
  *megahertz = clocks[which] + device->index;
  return OK;
}

API nvmlDeviceGetMaxClockInfo(Device* device, int which, unsigned* megahertz) {
  BOARD(megahertz);
  const unsigned clocks[] = {1970, 1980, 2619, 1800};
  if (which < 0 || which > 3) return INVALID_ARGUMENT;
  *megahertz = clocks[which];
  return OK;
}

API nvmlDeviceGetTotalEccErrors(Device* device, int kind, int counter, unsigned long long* out) {
  BOARD(out);
  if (kind < 0 || kind > 1 || counter != 0) return INVALID_ARGUMENT;
  *out = kind == 0 ? 3 + device->index : 0;
  return OK;
}

API nvmlDeviceGetCurrentClocksThrottleReasons(Device* device, unsigned long long* out) {
  BOARD(out);
  *out = 0x4 | 0x40;  // the power cap, and the hardware's thermal slowdown
  return OK;
}
