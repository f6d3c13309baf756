"""plain_http.py IMAGE [URL]: the image file is the body, the answer is JSON."""

import math
import pathlib
import sys

import requests

image = pathlib.Path(sys.argv[1]).read_bytes()
url = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"

answer = requests.post(
    f"{url}/v1/models/ArcFace/infer", data=image, headers={"Content-Type": "image/jpeg"}, timeout=10
)
if not answer.ok:
    sys.exit(f"{answer.status_code}: {answer.json()['error']}")
embedding = answer.json()["outputs"][0]["data"]

print(f"{len(embedding)} values, norm {math.hypot(*embedding):.6f}")
print(*(f"{value:.6f}" for value in embedding[:5]))
