"""run.py PROGRAM [ARGUMENTS...]: runs a program that imports `paddle_serving_server.pipeline`, as its wheel has it.

Importing that package imports the whole server, and with it packages that have no wheels for today's Python. The
pipeline's client uses nothing of them: empty modules take their places.
"""

import runpy
import sys
import types

for name, attributes in {
    "func_timeout": (),
    "paddle_serving_client": ("Client", "MultiLangClient"),
    "paddle_serving_app": (),
    "paddle_serving_app.local_predict": ("LocalPredictor",),
}.items():
    module = types.ModuleType(name)
    module.__path__ = []
    for attribute in attributes:
        setattr(module, attribute, type(attribute, (), {}))
    sys.modules[name] = module

sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
