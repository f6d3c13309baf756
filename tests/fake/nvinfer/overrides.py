#!/usr/bin/env python3
"""Writes C++ that overrides every pure virtual method of TensorRT's interfaces with one that says what is missing and
aborts, so that the fake library implements only what it needs and nothing is answered by accident.

    overrides.py TENSORRT_INCLUDE_DIR > overrides.h
"""

import pathlib
import re
import sys

IMPLEMENTATIONS = """VHostMemory VRuntime VOptimizationProfile VCudaEngine VExecutionContext VEngineInspector VTensor
VNetworkDefinition VTimingCache VBuilderConfig VBuilder VRuntimeConfig""".split()
PARSER = "IParserError IParser".split()

METHOD = re.compile(r"virtual\s+([^;{}]*?)\s*=\s*0\s*;")
SIGNATURE = re.compile(
    r"(?:TRT_NODISCARD |TRT_DEPRECATED )*(?P<result>.*?)\b(?P<name>\w+)\s*\((?P<parameters>.*)\)"
    r"\s*(?P<const>const)?\s*(?P<noexcept>noexcept)?$"
)


def body_of(text: str, name: str) -> str:
    """What stands between the braces of a class."""
    start = re.search(rf"\bclass\s+{name}\b[^;{{]*\{{", text)
    if not start:
        sys.exit(f"overrides.py: no class {name} in the headers")
    depth, end = 1, start.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        end += 1
    return text[start.end() : end - 1]


def overrides(text: str, name: str, scope: str) -> None:
    print(f"struct {name}Base : {scope}::{name} {{")
    for declaration in METHOD.findall(body_of(text, name)):
        declaration = " ".join(declaration.split())
        found = SIGNATURE.match(declaration)
        if not found:
            sys.exit(f"overrides.py: cannot read {name}: {declaration}")
        if found["name"].startswith("~") or declaration.startswith("~"):
            continue
        parameters = re.sub(r"\s*=\s*[^,]+", "", found["parameters"])
        qualifiers = " ".join(word for word in (found["const"], found["noexcept"]) if word)
        result = found["result"].strip()
        print(f'  {result} {found["name"]}({parameters}) {qualifiers} override '
              f'{{ missing("{name}::{found["name"]}"); }}')
    print("};")


def read(path: pathlib.Path) -> str:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def main() -> None:
    include = pathlib.Path(sys.argv[1])
    print("// Written by overrides.py.\n#pragma once\n#include <NvInfer.h>\n#include <NvOnnxParser.h>")
    print('#pragma GCC diagnostic push\n#pragma GCC diagnostic ignored "-Wunused-parameter"')
    print('#pragma GCC diagnostic ignored "-Wdeprecated-declarations"')
    print("namespace fake {\nusing namespace nvinfer1;\n[[noreturn]] void missing(char const* method) noexcept;")
    implementation = read(include / "NvInferImpl.h")
    for name in IMPLEMENTATIONS:
        overrides(implementation, name, "apiv")
    parser = read(include / "NvOnnxParser.h")
    print("using nvonnxparser::OnnxParserFlags;\nusing nvonnxparser::OnnxParserFlag;")
    print("using nvonnxparser::IRefitterObserver;\nnamespace parser {\nusing nvonnxparser::ErrorCode;\nusing nvonnxparser::IParserError;")
    for name in PARSER:
        overrides(parser, name, "nvonnxparser")
    print("}  // namespace parser\n}  // namespace fake\n#pragma GCC diagnostic pop")


main()
