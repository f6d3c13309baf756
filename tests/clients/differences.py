"""Where visord answers otherwise than the real Triton, on purpose. docs/compatibility.md has the reasons."""
import fnmatch
from typing import NamedTuple


class Difference(NamedTuple):
    key: str
    cases: tuple = ()
    path: str = "status"

    def covers(self, case, path, theirs, ours):
        return any(fnmatch.fnmatchcase(case, p) for p in self.cases) and fnmatch.fnmatchcase(path, self.path)


DIFFERENCES = []
