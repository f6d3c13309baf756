"""Libraries out of pinned Python wheels: what scripts/openvino and scripts/tensorrt-* share."""

import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile


class Unavailable(Exception):
    """The libraries cannot be had here; the text says why."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def pips(root):
    """Commands that may be pip: this Python's, then a virtual environment's."""
    yield [sys.executable, "-m", "pip"]
    venv = root / "tools" / "pip"
    if not (venv / "bin" / "pip").exists():
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
        if made.returncode != 0:
            shutil.rmtree(venv, ignore_errors=True)
            return
    yield [str(venv / "bin" / "python"), "-m", "pip"]


def find_pip(root):
    for pip in pips(root):
        if subprocess.run([*pip, "--version"], capture_output=True).returncode == 0:
            return pip
    raise Unavailable("no pip to fetch it with: apt-get install python3-venv")


def download(root, into, package, version, wheels, interpreter):
    """The verified wheel's path. `wheels`: platform tag and SHA-256 by machine; `interpreter`: its tags."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in wheels:
        raise Unavailable(f"no pinned wheel for {sys.platform} on {machine}")
    tag, digest = wheels[machine]
    requirements = into / "requirements.txt"
    requirements.write_text(f"{package}=={version} --hash=sha256:{digest}\n")
    implementation, abi = interpreter
    command = [*find_pip(root), "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--require-hashes", "--python-version", "3.11", "--implementation", implementation, "--abi", abi,
               "--platform", tag, "--dest", str(into), "-r", str(requirements)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found = list(into.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise Unavailable(f"pip could not fetch {package}=={version}:\n{done.stderr.strip()}")
    return found[0]


def unpack(wheel, into, wanted):
    """Unpacks into one folder, without its own folders: what `wanted` takes, by its name in the wheel, and licences."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = pathlib.PurePosixPath(entry.filename).name
            licences = ("licenses/", "LICENSE", "third-party-programs")
            licence = ".dist-info/" in entry.filename and any(word in entry.filename for word in licences)
            library = wanted(entry.filename)
            if entry.is_dir() or not (library or licence):
                continue
            with archive.open(entry) as source, open(into / name, "wb") as target:
                shutil.copyfileobj(source, target)
            os.chmod(into / name, 0o755 if library else 0o644)


def install(folder, fill, usable):
    """Fills a folder so that nobody sees it half full. `fill(scratch, unpacked)` fills `unpacked`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as scratch:
        scratch = pathlib.Path(scratch)
        unpacked = scratch / "unpacked"
        unpacked.mkdir()
        fill(scratch, unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            # Another process may have finished first, or an older, partial folder is in the way.
            if not usable(folder):
                shutil.rmtree(folder, ignore_errors=True)
                unpacked.rename(folder)


def root_of(arguments):
    """The folder for downloads: the argument, or cargo's."""
    return pathlib.Path(arguments[0] if arguments else os.environ.get("CARGO_TARGET_DIR", "target")).absolute()
