"""triton_http.py IMAGE [HOST:PORT]: tritonclient over HTTP, the image as a binary tensor."""

import pathlib
import sys

import numpy as np
import tritonclient.http as triton

image = pathlib.Path(sys.argv[1]).read_bytes()
address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8000"

images = triton.InferInput("image", [1, 1], "BYTES")  # [n, 1]: n images, each a whole file
images.set_data_from_numpy(np.array([[image]], dtype=object))
with triton.InferenceServerClient(address) as client:
    embedding = client.infer("ArcFace", [images]).as_numpy("embedding")[0]

print(f"{embedding.size} values, norm {np.linalg.norm(embedding):.6f}")
print(*(f"{value:.6f}" for value in embedding[:5]))
