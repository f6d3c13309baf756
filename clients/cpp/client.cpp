// client IMAGE [HOST:PORT]: stubs that protoc and its gRPC plugin generate from proto/.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "inference.grpc.pb.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors travel as little-endian bytes");

int main(int argc, char** argv) {
    std::ifstream file(argc > 1 ? argv[1] : "", std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "usage: client IMAGE [HOST:PORT]\n");
        return 64;
    }
    std::string image{std::istreambuf_iterator<char>(file), {}};
    auto channel = grpc::CreateChannel(argc > 2 ? argv[2] : "127.0.0.1:8001", grpc::InsecureChannelCredentials());
    auto stub = inference::GRPCInferenceService::NewStub(channel);

    inference::ModelInferRequest request;
    request.set_model_name("ArcFace");
    auto* input = request.add_inputs();
    input->set_name("image");
    input->set_datatype("BYTES");
    input->add_shape(1);
    input->add_shape(1);
    input->mutable_contents()->add_bytes_contents(std::move(image));

    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    inference::ModelInferResponse response;
    if (auto status = stub->ModelInfer(&context, request, &response); !status.ok()) {
        std::fprintf(stderr, "status %d: %s\n", static_cast<int>(status.error_code()), status.error_message().c_str());
        return 1;
    }

    const std::string& raw = response.raw_output_contents(0);
    std::vector<float> embedding(raw.size() / sizeof(float));
    std::memcpy(embedding.data(), raw.data(), embedding.size() * sizeof(float));
    double square = 0;
    for (float value : embedding) square += static_cast<double>(value) * value;
    std::printf("%zu values, norm %.6f\n", embedding.size(), std::sqrt(square));
    for (size_t i = 0; i < 5 && i < embedding.size(); ++i) std::printf("%s%.6f", i ? " " : "", embedding[i]);
    std::printf("\n");
}
