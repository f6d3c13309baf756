// JPEG with libjpeg-turbo, in the settings of src/ffi/turbojpeg.
#include "library.h"

#include <cstring>
#include <memory>
#include <turbojpeg.h>

namespace fake {

struct Destroy {
  void operator()(void* handle) const { tj3Destroy(handle); }
};
using Turbo = std::unique_ptr<void, Destroy>;

static Turbo open(const unsigned char* data, size_t length) {
  Turbo turbo(tj3Init(TJINIT_DECOMPRESS));
  if (!turbo || tj3Set(turbo.get(), TJPARAM_SCANLIMIT, 100) || tj3Set(turbo.get(), TJPARAM_SAVEMARKERS, 0)) return {};
  // A warning is no reason to stop.
  if (tj3DecompressHeader(turbo.get(), data, length) && tj3Get(turbo.get(), TJPARAM_JPEGWIDTH) <= 0) return {};
  return turbo;
}

// Start-of-scan markers, from segment to segment.
static int count_scans(const unsigned char* data, size_t length) {
  int scans = 0;
  for (size_t at = 0; at + 3 < length;) {
    unsigned char marker = data[at + 1];
    if (data[at] != 0xff || marker == 0 || marker == 0xff || (marker >= 0xd0 && marker <= 0xd8)) {
      ++at;
      continue;
    }
    if (marker == 0xd9) break;
    scans += marker == 0xda;
    at += 2u + (static_cast<size_t>(data[at + 2]) << 8 | data[at + 3]);
  }
  return scans;
}

bool read_header(const unsigned char* data, size_t length, Header& header) {
  Turbo turbo = open(data, length);
  if (!turbo) return false;
  auto get = [&](int parameter) { return tj3Get(turbo.get(), parameter); };
  int sampling = get(TJPARAM_SUBSAMP), color = get(TJPARAM_COLORSPACE);
  const char* names[] = {"444", "422", "420", "gray", "440", "411", "441"};
  header.width = get(TJPARAM_JPEGWIDTH);
  header.height = get(TJPARAM_JPEGHEIGHT);
  header.components = color == TJCS_GRAY ? 1 : color == TJCS_YCbCr || color == TJCS_RGB ? 3 : 4;
  header.precision = get(TJPARAM_PRECISION);
  header.scans = count_scans(data, length);
  header.progressive = get(TJPARAM_PROGRESSIVE) == 1;
  header.other_process = get(TJPARAM_ARITHMETIC) == 1 || get(TJPARAM_LOSSLESS) == 1;
  header.ycc = color == TJCS_YCbCr || color == TJCS_GRAY;
  header.sampling = sampling >= 0 && sampling < 7 ? names[sampling] : "other";
  return header.width > 0 && header.height > 0;
}

size_t bytes_of(const Header& header) {
  return static_cast<size_t>(header.width) * static_cast<size_t>(header.height) * 3;
}

bool decode(const unsigned char* data, size_t length, const Header& header, unsigned char* pixels) {
  Turbo turbo = open(data, length);
  if (!turbo || tj3Get(turbo.get(), TJPARAM_JPEGWIDTH) != header.width ||
      tj3Get(turbo.get(), TJPARAM_JPEGHEIGHT) != header.height) {
    return false;
  }
  if (tj3Decompress8(turbo.get(), data, length, pixels, 0, TJPF_RGB) == 0) return true;
  const char* text = tj3GetErrorStr(turbo.get());
  for (const char* warning : {"Corrupt JPEG data: ", "Premature end of JPEG file", "Inconsistent progression sequence",
                              "Invalid SOS parameters for sequential JPEG", "Unknown Adobe color transform code",
                              "Warning: "}) {
    if (strncmp(text, warning, strlen(warning)) == 0) return true;
  }
  return false;
}

}  // namespace fake
