"""paddle_pipeline.py IMAGE [HOST:PORT]: PaddleServing's own client over gRPC, of 0.6.x or of 0.7 and later."""

import base64
import pathlib
import sys

from numpy import array, float32, linalg
from paddle_serving_server.pipeline import PipelineClient

image = pathlib.Path(sys.argv[1]).read_bytes()
address = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8001"

client = PipelineClient()
client.connect([address])
answer = client.predict(feed_dict={"image": base64.b64encode(image).decode()}, fetch=["out"])
if answer.err_no != 0:
    sys.exit(f"err_no {answer.err_no}: {answer.err_msg}")
# The value is what numpy prints, "array([[...]], dtype=float32)"; only these two names may occur in it.
(embedding,) = eval(answer.value[0], {"__builtins__": {}}, {"array": array, "float32": float32})

print(f"{embedding.size} values, norm {linalg.norm(embedding):.6f}")
print(*(f"{value:.6f}" for value in embedding[:5]))
