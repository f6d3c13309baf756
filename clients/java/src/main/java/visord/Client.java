package visord;

import com.google.protobuf.ByteString;
import inference.GRPCInferenceServiceGrpc;
import inference.InferTensorContents;
import inference.ModelInferRequest;
import inference.ModelInferResponse;
import io.grpc.ManagedChannel;
import io.grpc.netty.NettyChannelBuilder;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** Client IMAGE [HOST:PORT]: stubs that protoc and grpc-java's plugin generate from proto/. */
public final class Client {
    public static void main(String[] args) throws Exception {
        byte[] image = Files.readAllBytes(Path.of(args[0]));
        String address = args.length > 1 ? args[1] : "127.0.0.1:8001";

        ManagedChannel channel = NettyChannelBuilder.forTarget(address).usePlaintext().build();
        ModelInferResponse response;
        try {
            response = GRPCInferenceServiceGrpc.newBlockingStub(channel)
                .withDeadlineAfter(10, TimeUnit.SECONDS)
                .modelInfer(ModelInferRequest.newBuilder()
                    .setModelName("ArcFace")
                    .addInputs(ModelInferRequest.InferInputTensor.newBuilder()
                        .setName("image").setDatatype("BYTES").addShape(1).addShape(1)
                        .setContents(InferTensorContents.newBuilder().addBytesContents(ByteString.copyFrom(image))))
                    .build());
        } finally {
            channel.shutdown().awaitTermination(5, TimeUnit.SECONDS);
        }

        FloatBuffer embedding = response.getRawOutputContents(0).asReadOnlyByteBuffer()
            .order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer();
        double square = IntStream.range(0, embedding.limit())
            .mapToDouble(i -> (double) embedding.get(i) * embedding.get(i)).sum();
        System.out.printf(Locale.ROOT, "%d values, norm %.6f%n", embedding.limit(), Math.sqrt(square));
        System.out.println(IntStream.range(0, Math.min(5, embedding.limit()))
            .mapToObj(i -> String.format(Locale.ROOT, "%.6f", embedding.get(i)))
            .collect(Collectors.joining(" ")));
    }
}
