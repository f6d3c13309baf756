"""The pinned wheels with TensorRT libraries that PyPI has; scripts/tensorrt-rtx and scripts/tensorrt-lean."""

import ctypes
import os
import sys
import zipfile

from wheels import Unavailable, download, install, root_of, say, unpack

TAG = "manylinux_2_28_x86_64"
# Name in the folder's name, package, version, megabytes, variable, SHA-256, libraries: the first is loaded to see
# that it works here.
KINDS = {
    "rtx": (
        "rtx", "tensorrt-rtx-cu12-libs", "1.7.1.116", 89, "VISORD_TENSORRT_DIR",
        "68c2615fef1556e7721235682f460f3d78ab89df320a3f34a416367b144817a8",
        ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
    ),
    "lean-10": (
        "lean", "tensorrt-lean-cu12-libs", "10.16.1.11", 46, "VISORD_TENSORRT_LEAN_10_DIR",
        "b472f89c55752ea35406b951da629f033e598a522bcb4e472e741c0f1f91eb58",
        ("libnvinfer_lean.so.10",),
    ),
    "lean-11": (
        "lean", "tensorrt-lean-cu12-libs", "11.4.0.106", 46, "VISORD_TENSORRT_LEAN_11_DIR",
        "091458056315f2ff7d8aa1b324ce8f9a0b227016fe223dfb60fc783eb8659478",
        ("libnvinfer_lean.so.11",),
    ),
}


def fetch(root, folder, kind):
    _, package, version, megabytes, _, digest, libraries = KINDS[kind]
    say(f"==> {package} {version}: fetching a {megabytes} MB wheel into {folder}")

    def fill(scratch, unpacked):
        wheel = download(root, scratch, package, version, {"x86_64": (TAG, digest)}, ("py", "none"))
        unpack(wheel, unpacked, lambda name: name.rpartition("/")[2] in libraries)
        try:
            number = ctypes.CDLL(str(unpacked / libraries[0])).getInferLibVersion()
        except (OSError, AttributeError) as error:
            raise Unavailable(f"its libraries do not load on this system: {error}") from error
        say(f"==> {package} {version} is ready (it says {number})")

    install(folder, fill, lambda at: usable(at, libraries))


def usable(folder, libraries):
    return all((folder / name).exists() for name in libraries)


def main(doc, kind, arguments):
    if kind in ("-h", "--help") or arguments in (["-h"], ["--help"]):
        print(doc.strip())
        return 0
    if kind not in KINDS or len(arguments) > 1:
        say(doc.strip())
        return 64
    name, package, version, _, variable, _, libraries = KINDS[kind]
    given = os.environ.get(variable)
    if given:
        print(given)
        return 0
    root = root_of(arguments)
    folder = root / "tensorrt" / f"{name}-{version}"
    try:
        if not usable(folder, libraries):
            fetch(root, folder, kind)
    except (Unavailable, OSError, zipfile.BadZipFile) as error:
        say(f"note: {package} {version} is not available: {error}")
        return 3
    print(folder)
    return 0
