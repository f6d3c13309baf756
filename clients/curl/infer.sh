#!/usr/bin/env bash
# infer.sh IMAGE [URL]: the image file is the body, the answer is JSON.
set -euo pipefail
image=$1 url=${2:-http://127.0.0.1:8000}

answer=$(curl --silent --show-error --fail-with-body --data-binary "@$image" --header 'Content-Type: image/jpeg' \
    "$url/v1/models/ArcFace/infer") || { echo "$answer" >&2; exit 1; }
sed 's/.*"data":\[\([^]]*\)\].*/\1/' <<< "$answer" | tr ',' '\n' |
    awk '{ square += $1 * $1; if (NR <= 5) first = first sprintf(" %.6f", $1) }
         END { printf "%d values, norm %.6f\n%s\n", NR, sqrt(square), substr(first, 2) }'
