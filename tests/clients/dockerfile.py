"""Reads docker/Dockerfile, .dockerignore and docker/compose*.yaml for the tests of test_docker.py."""

import dataclasses
import fnmatch
import json
import pathlib
import re
import shlex
import subprocess

import yaml

from daemon import ROOT

DOCKER = ROOT / "docker"


@dataclasses.dataclass
class Instruction:
    word: str
    text: str
    comment: str


@dataclasses.dataclass
class Stage:
    base: str
    instructions: list

    def texts(self, word):
        return [i.text for i in self.instructions if i.word == word]

    def pairs(self, word):
        """The names and values of ENV or LABEL."""
        parts = [part.partition("=") for text in self.texts(word) for part in shlex.split(text)]
        return {name: value for name, _, value in parts}

    def copies(self):
        """(stage or None, sources, target) of each COPY."""
        for text in self.texts("COPY"):
            flags = [w for w in text.split() if w.startswith("--")]
            *sources, target = [w for w in text.split() if not w.startswith("--")]
            origin = [f.partition("=")[2] for f in flags if f.startswith("--from=")]
            yield (origin or [None])[0], sources, target


def read_dockerfile(path=DOCKER / "Dockerfile"):
    """The arguments before the first stage, and the stages by name."""
    arguments, stages, stage = {}, {}, None
    comment, joined = [], ""
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        if not joined.strip():
            comment = []
            continue
        word, _, text = joined.strip().partition(" ")
        instruction = Instruction(word, text.strip(), "\n".join(comment))
        comment, joined = [], ""
        if word == "FROM":
            base, _, name = text.partition(" AS ")
            stage = stages[name.strip()] = Stage(base.strip(), [])
        elif stage is None:
            assert word == "ARG", f"{word} before the first FROM"
            name, _, value = text.partition("=")
            arguments[name] = value
        else:
            stage.instructions.append(instruction)
    return arguments, stages


def context():
    """The files of the repository that .dockerignore lets into the build context.

    Its form is the one that this file has: `*`, then what is let in after all, anchored, where `*` stays within a
    folder. Docker lets in what is below a folder that is let in.
    """
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*" and all(p.startswith("!/") for p in patterns[1:]), f"another form: {patterns}"
    allowed = [pathlib.PurePosixPath(p[2:]) for p in patterns[1:]]

    def let_in(path, pattern):
        parts = pattern.parts
        return len(path.parts) >= len(parts) and all(map(fnmatch.fnmatchcase, path.parts, parts))

    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    files = [pathlib.PurePosixPath(n) for n in names if n and (ROOT / n).is_file()]
    taken = {pattern: [f for f in files if let_in(f, pattern)] for pattern in allowed}
    return {f for found in taken.values() for f in found}, taken


# Compose's `${NAME}`, `${NAME:-default}` and `${NAME:?why}`.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}")


def settings():
    """What can be set from outside, with its defaults: one for all profiles, or for each its own, or none."""
    found = {}
    for path in sorted(DOCKER.glob("compose*.yaml")):
        for name, kind, text in VARIABLE.findall(without_comments(path.read_text())):
            found.setdefault(name, set()).update([text] if kind == ":-" else [])
    for service in compose()["services"].values():
        found.update((name, set()) for name, value in service.get("environment", {}).items() if value is None)
    return found


def without_comments(text):
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def compose(path=DOCKER / "compose.yaml"):
    """A compose file with every default in place."""
    text = without_comments(path.read_text())
    return yaml.safe_load(VARIABLE.sub(lambda m: m[3] if m[2] == ":-" else "", text).replace("$$", "$"))


def seconds(text):
    """A duration of compose: 90s, 1m30s, 15m."""
    units = {"s": 1, "m": 60, "h": 3600}
    assert re.fullmatch(r"(\d+[smh])+", text), text
    return sum(int(n) * units[u] for n, u in re.findall(r"(\d+)([smh])", text))


def schema(tools):
    """The Compose Specification's JSON schema."""
    found = list(tools.glob("lib/python*/site-packages/check_jsonschema/builtin_schemas/vendor/compose-spec.json"))
    assert len(found) == 1, f"{tools} has no schema of compose files"
    return json.loads(found[0].read_text())
