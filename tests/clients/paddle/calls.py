"""calls.py HOST:PORT PICTURES [TENSOR.npy]: what PipelineClient's calls answer, one JSON line each. Runs under run.py."""

import base64
import json
import pathlib
import sys

import numpy as np
from paddle_serving_server.pipeline import PipelineClient

address, folder = sys.argv[1], pathlib.Path(sys.argv[2])
client = PipelineClient()
client.connect([address])


def b64(name):
    return base64.b64encode((folder / name).read_bytes()).decode()


def told(label, answer):
    print("ANSWER " + json.dumps({
        "label": label, "err_no": answer.err_no, "err_msg": answer.err_msg,
        "key": list(answer.key), "value": list(answer.value),
    }), flush=True)


told("one image", client.predict(feed_dict={"image": b64("face.jpg")}, fetch=["out"]))
told("log id", client.predict(feed_dict={"image": b64("face.jpg"), "logid": 7}))
told("client address", client.predict(feed_dict={"image": b64("face.jpg"), "clientip": "192.0.2.7"}))
told("profile", client.predict(feed_dict={"image": b64("face.jpg")}, profile=True))
told("two images", client.predict(feed_dict={"image_0": b64("face.jpg"), "image_1": b64("astronaut.jpg")}))
futures = [client.predict(feed_dict={"image": b64(name)}, asyn=True) for name in ("face.jpg", "astronaut.jpg")]
for name, future in zip(("face.jpg", "astronaut.jpg"), futures):
    told(f"asynchronous, {name}", future.result())
told("not an image", client.predict(feed_dict={"image": base64.b64encode(b"hello").decode()}))
told("no base64", client.predict(feed_dict={"image": "!!!"}))
told("nothing", client.predict(feed_dict={}))
told("numpy text", client.predict(feed_dict={"image": np.zeros((1, 3, 2, 2), np.float32)}))
if len(sys.argv) > 3:  # from 0.7 on
    zeros, tensor = np.zeros((1, 3, 2, 2), np.float32), np.load(sys.argv[3])
    told("text as tensor", client.predict(feed_dict={"image": b64("face.jpg")}, pack_tensor_format=True))
    told("ready-made tensor", client.predict(feed_dict={"input": tensor}, pack_tensor_format=True))
    told("tensor in place of an image", client.predict(feed_dict={"image": zeros}, pack_tensor_format=True))
    told("pickled", client.predict(feed_dict={"input": tensor}, pack_tensor_format=True, use_tensor_bytes=True))
