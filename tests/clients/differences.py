"""Where visord answers otherwise than the real Triton, on purpose. docs/compatibility.md has a row for each, with its
reason; `key` is that row's first cell."""

import fnmatch
from typing import NamedTuple


class Difference(NamedTuple):
    """`cases` and `path` are patterns. `leaves`, where given, are the pairs of what Triton and visord answer."""

    key: str
    cases: tuple
    path: str = "*status"
    leaves: tuple = ()

    def covers(self, case, path, theirs, ours):
        return (
            any(fnmatch.fnmatchcase(case, pattern) for pattern in self.cases)
            and fnmatch.fnmatchcase(path, self.path)
            and (not self.leaves or (theirs, ours) in self.leaves)
        )


UNKNOWN = (("400", "404"), ("INVALID_ARGUMENT", "NOT_FOUND"))
REFUSED = (("200", "400"), ("OK", "INVALID_ARGUMENT"))
SERVED = (("400", "200"), ("INVALID_ARGUMENT", "OK"))

DIFFERENCES = [
    Difference("Name, version", ("* server metadata",), "name", (("triton", "visord"),)),
    Difference("Name, version", ("* server metadata",), "version"),
    Difference("Extensions", ("* server metadata",), "extensions"),
    Difference("Platform, backend and its settings", ("* model metadata*", "*loaded again"), "*platform"),
    Difference("Platform, backend and its settings", ("* model config",), "*platform"),
    Difference("Platform, backend and its settings", ("* model config",), "*backend"),
    Difference("Platform, backend and its settings", ("* model config",), "*default_model_filename"),
    Difference("Platform, backend and its settings", ("* model config",), "*instance_group*count"),
    Difference("Platform, backend and its settings", ("* model config",), "*parameters.*"),
    Difference("Fields of the configuration without meaning here", ("* model config",), "*input?0?.format"),
    Difference("Fields of the configuration without meaning here", ("* model config",), "*input?1?.format"),
    Difference("Fields of the configuration without meaning here", ("* model config",), "*optimization.*"),
    Difference("Fields of the configuration without meaning here", ("* model config",), "*preferred_batch_size"),
    Difference("Statistics of an unknown model or version", ("* statistics, unknown *",), leaves=UNKNOWN),
    Difference("Trace settings, CUDA shared memory", ("* trace settings", "* CUDA shared memory"),
               leaves=(("200", "404"), ("OK", "UNIMPLEMENTED"))),
    Difference("An image as text in JSON", ("http image as JSON",), leaves=SERVED),
    Difference("`timeout`", ("* timeout of 1 microsecond",), leaves=(("200", "504"), ("OK", "DEADLINE_EXCEEDED"))),
    Difference("More rows than `max_batch_size`", ("* more rows than max_batch_size",), leaves=SERVED),
    Difference("An output named twice", ("* the same output twice",), leaves=REFUSED),
    Difference("JSON, or gzip, that cannot be read", ("http body: *", "http corrupt gzip"), leaves=(("500", "400"),)),
    Difference("`id` that is a number", ("http body: id that is a number",), leaves=(("500", "200"),)),
    Difference("`classification` of 0", ("http body: classification of 0",), leaves=REFUSED),
    Difference("An unknown `Content-Encoding`", ("http unknown Content-Encoding",), leaves=(("501", "415"),)),
    Difference("Readiness of an unknown model or version", ("http status of model ready*",), leaves=UNKNOWN),
    Difference("A version that is no number", ("grpc version that is no number",), leaves=(UNKNOWN[1],)),
    Difference("More raw contents than inputs", ("grpc more raw contents than inputs",), leaves=REFUSED),
    Difference("Shared memory that is not there or too small", ("* system shared memory, used",), "*.status",
               (("500", "400"), ("INTERNAL", "INVALID_ARGUMENT"))),
    Difference("A region registered twice", ("grpc system shared memory, used",), "registered twice.status",
               (("ALREADY_EXISTS", "INVALID_ARGUMENT"),)),
    Difference("Health of an unknown service", ("grpc health, unknown service",), leaves=(("OK", "NOT_FOUND"),)),
    Difference("Load of an unknown model", ("* load of an unknown model",),
               leaves=(("500", "404"), ("INTERNAL", "NOT_FOUND"))),
    Difference("Unload of an unknown model", ("* unload of an unknown model",),
               leaves=(("200", "404"), ("OK", "NOT_FOUND"))),
    Difference("A model that was unloaded", ("* unloaded and loaded again",), "*.status",
               (("404", "503"), ("NOT_FOUND", "UNAVAILABLE"))),
]
