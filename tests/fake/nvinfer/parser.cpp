// A fake ONNX parser: reads as much of the protobuf as says what goes into the graph and comes out of it.
#include "library.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>

extern "C" void visordFakeNvinferOutput(nvinfer1::INetworkDefinition* network, char const* name, nvinfer1::DataType type, nvinfer1::Dims const* shape);

namespace fake {

// One after another, the fields of a protobuf message. `ok` is false where the bytes are none.
struct Message {
  uint8_t const* at;
  uint8_t const* end;
  bool ok = true;
  uint64_t field = 0, number = 0;
  uint8_t const* bytes = nullptr;
  size_t size = 0;

  Message(uint8_t const* b, size_t n) : at(b), end(b + n) {}
  explicit Message(std::string const& s) : Message(reinterpret_cast<uint8_t const*>(s.data()), s.size()) {}

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at == end) break;
      uint8_t byte = *at++;
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    ok = false;
    return 0;
  }
  bool next() {
    if (!ok || at == end) return false;
    uint64_t key = varint();
    field = key >> 3;
    bytes = nullptr;
    size = 0;
    switch (key & 7) {
      case 0: number = varint(); break;
      case 1: size = 8; break;
      case 2: size = varint(); break;
      case 5: size = 4; break;
      default: ok = false;
    }
    ok = ok && field != 0 && size <= static_cast<size_t>(end - at);
    if (!ok) return false;
    bytes = at;
    at += size;
    return true;
  }
  std::string text() const { return {reinterpret_cast<char const*>(bytes), size}; }
  Message inner() const { return {bytes, size}; }
};

// TensorProto.DataType
static bool type_of(uint64_t onnx, DataType& type) {
  switch (onnx) {
    case 1: type = DataType::kFLOAT; return true;
    case 2: type = DataType::kUINT8; return true;
    case 3: type = DataType::kINT8; return true;
    case 6: type = DataType::kINT32; return true;
    case 7: type = DataType::kINT64; return true;
    case 9: type = DataType::kBOOL; return true;
    case 10: type = DataType::kHALF; return true;
    case 16: type = DataType::kBF16; return true;
    default: return false;
  }
}

struct ParserErrorImpl final : parser::IParserErrorBase {
  parser::ErrorCode kind;
  std::string text, name, op;
  int index;
  ParserErrorImpl(parser::ErrorCode k, std::string t, int i = -1, std::string n = "", std::string o = "")
      : kind(k), text(std::move(t)), name(std::move(n)), op(std::move(o)), index(i) {}
  parser::ErrorCode code() const override { return kind; }
  char const* desc() const override { return text.c_str(); }
  char const* file() const override { return "parser.cpp"; }
  int line() const override { return 0; }
  char const* func() const override { return "parse"; }
  int node() const override { return index; }
  char const* nodeName() const override { return name.c_str(); }
  char const* nodeOperator() const override { return op.c_str(); }
  char const* const* localFunctionStack() const override { return nullptr; }
  int32_t localFunctionStackSize() const override { return 0; }
};

struct Parser final : parser::IParserBase {
  INetworkDefinition* network;
  std::vector<std::unique_ptr<ParserErrorImpl>> errors;
  OnnxParserFlags flags = 0;

  void fail(parser::ErrorCode code, std::string text, int node = -1, std::string name = "", std::string op = "") {
    errors.push_back(std::make_unique<ParserErrorImpl>(code, std::move(text), node, std::move(name), std::move(op)));
  }

  bool read_value(Message m, Tensor& tensor, uint64_t& onnx_type) {
    tensor.shape = Dims{0, {}};
    while (m.next()) {
      if (m.field == 1) tensor.name = m.text();
      if (m.field != 2) continue;
      Message type = m.inner();
      while (type.next()) {
        if (type.field != 1) continue;
        Message t = type.inner();
        while (t.next()) {
          if (t.field == 1) onnx_type = t.number;
          if (t.field != 2) continue;
          Message shape = t.inner();
          while (shape.next()) {
            if (shape.field != 1) continue;
            if (tensor.shape.nbDims == Dims::MAX_DIMS) return false;
            Message dim = shape.inner();
            int64_t value = -1;
            while (dim.next()) {
              if (dim.field == 1) value = static_cast<int64_t>(dim.number);
            }
            if (!dim.ok) return false;
            tensor.shape.d[tensor.shape.nbDims++] = value;
          }
          if (!shape.ok) return false;
        }
        if (!t.ok) return false;
      }
      if (!type.ok) return false;
    }
    return m.ok && !tensor.name.empty();
  }

  // An initializer's name; its external data must be beside the model.
  bool read_initializer(Message m, std::string const& folder, std::string& name) {
    bool external = false;
    std::string location;
    while (m.next()) {
      if (m.field == 8) name = m.text();
      if (m.field == 14) external = m.number == 1;
      if (m.field != 13) continue;
      Message entry = m.inner();
      std::string key, value;
      while (entry.next()) (entry.field == 1 ? key : value) = entry.text();
      if (key == "location") location = value;
    }
    if (external && !std::ifstream(folder + location)) {
      fail(parser::ErrorCode::kINVALID_GRAPH, "Failed to open external data file: " + folder + location);
    }
    return m.ok;
  }

  bool read_node(Message m, int index) {
    std::string name, op, domain;
    while (m.next()) {
      if (m.field == 3) name = m.text();
      if (m.field == 4) op = m.text();
      if (m.field == 7) domain = m.text();
    }
    if (m.ok && (op.empty() || (!domain.empty() && domain != "ai.onnx"))) {
      fail(parser::ErrorCode::kINVALID_NODE, "Plugin not found, are the plugin name, version, and namespace correct?", index, name, op);
    }
    return m.ok;
  }

  bool read_graph(Message m, std::string const& folder) {
    struct Value {
      Tensor tensor;
      uint64_t type = 0;
    };
    std::vector<Value> inputs, outputs;
    std::vector<std::string> initializers;
    int nodes = 0;
    bool whole = true;
    while (whole && m.next()) {
      if (m.field == 1) whole = read_node(m.inner(), nodes++);
      if (m.field == 5) {
        initializers.emplace_back();
        whole = read_initializer(m.inner(), folder, initializers.back());
      }
      if (m.field == 11 || m.field == 12) {
        auto& list = m.field == 11 ? inputs : outputs;
        list.emplace_back();
        whole = read_value(m.inner(), list.back().tensor, list.back().type);
      }
    }
    if (!whole || !m.ok) return false;
    for (auto* list : {&inputs, &outputs}) {
      for (Value& v : *list) {
        bool weight = false;
        for (std::string const& i : initializers) weight = weight || i == v.tensor.name;
        if (weight && list == &inputs) continue;
        if (!type_of(v.type, v.tensor.type)) {
          fail(parser::ErrorCode::kUNSUPPORTED_NODE_DATATYPE, "the element type of " + v.tensor.name + " is not supported");
        } else if (list == &inputs) {
          network->addInput(v.tensor.name.c_str(), v.tensor.type, v.tensor.shape);
        } else {
          visordFakeNvinferOutput(network, v.tensor.name.c_str(), v.tensor.type, &v.tensor.shape);
        }
      }
    }
    return true;
  }

  // As the real one, it takes an empty message for a model without anything in it.
  bool parse(void const* onnx, size_t size, char const* path) noexcept override {
    std::string file = path ? path : "";
    std::string folder = file.substr(0, file.rfind('/') == std::string::npos ? 0 : file.rfind('/') + 1);
    Message model(static_cast<uint8_t const*>(onnx), size);
    bool whole = true;
    while (whole && model.next()) {
      if (model.field == 7) whole = read_graph(model.inner(), folder);
    }
    if (!whole || !model.ok) fail(parser::ErrorCode::kMODEL_DESERIALIZE_FAILED, "Failed to parse the ONNX model.");
    return errors.empty();
  }
  bool parseFromFile(char const* path, int) noexcept override {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream bytes;
    bytes << in.rdbuf();
    if (!in) {
      fail(parser::ErrorCode::kMODEL_DESERIALIZE_FAILED, std::string("Failed to open ") + path);
      return false;
    }
    return parse(bytes.str().data(), bytes.str().size(), path);
  }
  int getNbErrors() const noexcept override { return static_cast<int>(errors.size()); }
  parser::IParserError const* getError(int index) const noexcept override {
    return index < 0 || index >= getNbErrors() ? nullptr : errors[static_cast<size_t>(index)].get();
  }
  void clearErrors() noexcept override { errors.clear(); }
  void setFlags(OnnxParserFlags f) noexcept override { flags = f; }
  OnnxParserFlags getFlags() const noexcept override { return flags; }
  void setFlag(OnnxParserFlag f) noexcept override { flags |= 1u << static_cast<uint32_t>(f); }
  void clearFlag(OnnxParserFlag f) noexcept override { flags &= ~(1u << static_cast<uint32_t>(f)); }
  bool getFlag(OnnxParserFlag f) const noexcept override { return flags >> static_cast<uint32_t>(f) & 1; }
};

void missing(char const* method) noexcept {
  fprintf(stderr, "fake nvonnxparser: %s is not there\n", method);
  abort();
}

}  // namespace fake

EXPORT void* createNvOnnxParser_INTERNAL(void* network, void*, int version) noexcept {
  if (version / 10000 != NV_ONNX_PARSER_MAJOR) return nullptr;
  auto* made = new fake::Parser;
  made->network = static_cast<nvinfer1::INetworkDefinition*>(network);
  return static_cast<nvonnxparser::IParser*>(made);
}

EXPORT int getNvOnnxParserVersion() noexcept { return NV_ONNX_PARSER_VERSION; }
