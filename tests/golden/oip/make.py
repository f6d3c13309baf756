"""Writes the requests that tritonclient really sends, and checks that it can read our responses.

    pip install 'tritonclient[http]==2.73.0'
    python tests/golden/oip/make.py            # requests: *.req and requests.json
    cargo test --lib golden_bless -- --ignored # responses: *.rsp and responses.json
    python tests/golden/oip/make.py check      # read them with tritonclient

Each body is a file; the JSON beside them says what it holds. Data are compared as little-endian bytes, in hex.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np
import tritonclient.http as http
from tritonclient.utils import triton_to_np_dtype

VERSION = importlib.metadata.version("tritonclient")
HERE = pathlib.Path(__file__).parent
ELEMENTS = ["", "a face", "n\u00e4chstes Gesicht \"\\\n", "iVBORw0KGgo="]
TENSORS = {
    "FP32": np.array([[0.1, -1.5, 3.4028235e38], [1e-45, 16777217.0, -0.0]], np.float32),
    "FP16": np.array([[0.1, -65504.0, 6e-8]], np.float16),
    "FP64": np.array([[0.1, 1e308, 5e-324]], np.float64),
    "INT64": np.array([[-(2**63), 2**63 - 1, 0]], np.int64),
    "UINT64": np.array([[2**64 - 1, 2**63]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "UINT8": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3),
    "BOOL": np.array([[True, False, True]], np.bool_),
    "BYTES": np.array([e.encode() for e in ELEMENTS], np.object_),
}


def little_endian(datatype, array):
    """The bytes of `array` in hex; of BYTES, a list of them."""
    if datatype == "BYTES":
        return [e.hex() if isinstance(e, bytes) else e.encode().hex() for e in array.flatten()]
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def request(name, tensors, binary, **options):
    inputs, expected = [], []
    for index, (datatype, array) in enumerate(tensors):
        tensor = http.InferInput(f"input{index}", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
        data = little_endian(datatype, array)
        expected.append({"name": f"input{index}", "datatype": datatype, "shape": list(array.shape), "data": data})
    body, header = http.InferenceServerClient.generate_request_body(inputs, **options)
    (HERE / f"{name}.req").write_bytes(body)
    return {"name": name, "header": None if header is None else str(header), "inputs": expected}


def requests():
    cases = []
    for datatype, array in TENSORS.items():
        for binary in (True, False):
            form = "binary" if binary else "json"
            cases.append(request(f"{datatype.lower()}_{form}", [(datatype, array)], binary))
    empty = np.zeros((0, 3), np.float32)
    cases.append(request("empty_binary", [("FP32", empty)], True))
    cases.append(request("empty_json", [("FP32", empty)], False))
    everything = list(TENSORS.items())
    cases.append(request("all_binary", everything, True))
    outputs = [
        http.InferRequestedOutput("embedding", binary_data=True),
        http.InferRequestedOutput("norm", binary_data=False),
        http.InferRequestedOutput("scores", binary_data=True, class_count=3),
    ]
    cases.append(
        request(
            "options",
            everything[:1],
            True,
            outputs=outputs,
            request_id="request 7 \u00fc",
            priority=2,
            timeout=1500,
            sequence_id=9,
            sequence_start=True,
            parameters={"our_own": "ignored", "another": 1},
        )
    )
    document = {"tritonclient": VERSION, "requests": cases}
    (HERE / "requests.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"{len(cases)} requests written")


def check():
    cases = json.loads((HERE / "responses.json").read_text())
    for case in cases:
        body = (HERE / f"{case['name']}.rsp").read_bytes()
        result = http.InferenceServerClient.parse_response_body(body, header_length=case["header"])
        names = [o["name"] for o in result.get_response()["outputs"]]
        assert names == [o["name"] for o in case["outputs"]], (case["name"], names)
        for output in case["outputs"]:
            where = (case["name"], output["name"])
            array = result.as_numpy(output["name"])
            assert list(array.shape) == output["shape"], (where, array.shape)
            declared = result.get_output(output["name"])["datatype"]
            assert declared == output["datatype"], (where, declared)
            assert array.dtype == triton_to_np_dtype(declared), (where, array.dtype)
            got = little_endian(declared, array)
            assert got == output["data"], (where, got, output["data"])
    print(f"{len(cases)} responses read by tritonclient {VERSION}")


if __name__ == "__main__":
    check() if sys.argv[1:] == ["check"] else requests()
