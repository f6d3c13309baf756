"""The shipped ArcFace in Triton's Python backend: ONNX Runtime, OpenCV in front of it for encoded images."""

import pathlib

import cv2
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


def preprocess(encoded):
    """An encoded image as FP32 [3, 112, 112], RGB, (x - 127.5) / 128."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("not an image that OpenCV reads")
    image = cv2.cvtColor(cv2.resize(image, (112, 112)), cv2.COLOR_BGR2RGB)
    return ((image.astype(np.float32) - 127.5) / 128).transpose(2, 0, 1)


def refusal(text):
    return triton.InferenceResponse([], triton.TritonError(text, triton.TritonError.INVALID_ARG))


class TritonPythonModel:
    def initialize(self, args):
        repository = pathlib.Path(args["model_repository"])
        model = next(p for p in repository.parents if (p / "engines").is_dir()) / "engines/ArcFace/1/model.onnx"
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = triton.get_input_tensor_by_name(request, "image")
        tensor = triton.get_input_tensor_by_name(request, "input")
        if (images is None) == (tensor is None):
            return refusal("send one of the inputs `image` and `input`")
        try:
            rows = tensor.as_numpy() if images is None else np.stack([preprocess(e) for e in images.as_numpy()[:, 0]])
        except ValueError as error:
            return refusal(str(error))
        (embedding,) = self.session.run(["embedding"], {"input": rows})
        return triton.InferenceResponse([triton.Tensor("embedding", embedding)])
