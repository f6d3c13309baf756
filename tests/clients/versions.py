"""The shipped model in two versions with [traffic], and which one a key has, by the function that the docs give."""

import re
import shutil

import pytest

from daemon import MODEL, ROOT, Daemon, copy_repository

WEIGHTS = {1: 70, 2: 30}
KEYS = [f"user-{number}" for number in range(30)]


def documented():
    """The function `version` of docs/ab-testing.md."""
    page = (ROOT / "docs" / "ab-testing.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", page, re.S)
    scope = {}
    exec(compile(source, "docs/ab-testing.md", "exec"), scope)
    return scope["version"]


version_of = documented()


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """A daemon whose model has 70 and 30 as weights."""
    repository = copy_repository(tmp_path_factory.mktemp("divided"))
    shutil.copytree(repository / MODEL / "1", repository / MODEL / "2")
    with (repository / MODEL / "model.toml").open("a") as file:
        file.write('\n[traffic]\n"1" = 70\n"2" = 30\nsticky_header = "x-user-id"\nsticky_parameter = "user_id"\n')
    with Daemon(repository=repository) as daemon:
        yield daemon
