# `make` lists the targets; `make run` and `make test` are the two that matter.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export CARGO_TARGET_DIR ?= $(CURDIR)/target
TARGET := $(CARGO_TARGET_DIR)

HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=

# libjpeg-turbo is built with CMake: the system's, or a pinned one from its Python wheel.
ifeq ($(CMAKE)$(shell command -v cmake),)
export CMAKE := $(TARGET)/tools/cmake/bin/cmake
cmake-tool = scripts/venv "$(TARGET)/tools/cmake" scripts/cmake-requirements.txt
else
cmake-tool = :
endif

# In recipes: uses OpenVINO's libraries where they can be had.
openvino = if dir=$$(scripts/openvino "$(TARGET)"); then export VISORD_OPENVINO_DIR="$$dir"; fi

# In recipes: TensorRT libraries that tests use without a GPU. The tests look for them under target/; where they cannot
# be had, tests say so, and fail if CI is set.
tensorrt = for kind in "rtx" "lean 10" "lean 11"; do scripts/tensorrt-$$kind "$(TARGET)" >/dev/null || true; done

.PHONY: help
help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: preflight
preflight:
	@scripts/preflight
	@$(cmake-tool)

.PHONY: build
build: preflight ## Builds the daemon, optimised
	@echo "==> cargo build --release (a few minutes the first time)"
	@cargo build --release --locked

.PHONY: openvino
openvino: ## Fetches OpenVINO's libraries for the CPU, and prints their folder
	@scripts/openvino "$(TARGET)"

.PHONY: run
run: build ## Serves engines/ in the foreground (HOST=127.0.0.1 PORT=8000 ARGS="--backend rten")
	@scripts/serve "$(TARGET)/release/visord" "$(HOST)" "$(PORT)" $(ARGS)

.PHONY: check
check: preflight ## Format, lints, docs, and licences where cargo-deny is installed
	@echo "==> cargo fmt --check"
	@cargo fmt --check
	@echo "==> cargo clippy"
	@cargo clippy --locked --all-targets -- -D warnings
	@echo "==> cargo clippy, without the GPU path"
	@cargo clippy --locked --no-default-features --lib --bins -- -D warnings
	@echo "==> cargo doc"
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null; then \
	    echo "==> cargo deny check"; cargo deny --locked check; \
	else \
	    echo "==> cargo deny: not installed, skipped (cargo install --locked cargo-deny)"; \
	fi
	@echo "check: passed"

# The last two beside one another: both wait more than they compute.
.PHONY: test
test: check test-rust test-doc test-kernels client-tools ## Everything CI runs
	@$(MAKE) --no-print-directory test-languages >"$(TARGET)/test-languages.log" 2>&1 & languages=$$!; \
	$(MAKE) --no-print-directory test-clients || clients=failed; \
	wait $$languages || languages=failed; cat "$(TARGET)/test-languages.log"; \
	[ -z "$${clients:-}" ] && [ "$$languages" != failed ]
	@echo "make test: all suites passed"

# What tests download, for CI, which fetches while it compiles. Each is tried again where it is needed.
.PHONY: fetch
fetch: preflight client-venvs
	@$(tensorrt); $(openvino); $(kernel-tools); scripts/kubectl "$(TARGET)" >/dev/null || true

.PHONY: test-rust
test-rust: preflight ## Unit, integration and golden tests
	@$(tensorrt); $(openvino); \
	if cargo nextest --version >/dev/null 2>&1; then \
	    echo "==> cargo nextest run"; cargo nextest run --locked; \
	else \
	    echo "==> cargo test"; cargo test --locked --lib --bins --tests; \
	fi
	@echo "test-rust: passed"

.PHONY: test-doc
test-doc: preflight ## Examples in the documentation
	@echo "==> cargo test --doc"
	@cargo test --locked --doc
	@echo "test-doc: passed"

# NVRTC and ptxas, from their Python wheels.
kernel-tools = scripts/venv "$(TARGET)/kernels/tools" scripts/kernels-requirements.txt || { \
    echo "NVRTC and ptxas (x86_64 wheels, 45 MB) cannot be fetched: the network is needed once" >&2; exit 69; }

.PHONY: test-kernels
test-kernels: preflight ## Kernels: PTX as committed, no spills, right on the host, mistakes seen
	@$(kernel-tools)
	@echo "==> kernels/*.ptx"
	@scripts/kernels "$(TARGET)/kernels/tools" check "$(TARGET)/kernels/ptx"
	@echo "==> kernels on the host"
	@tests/kernels/run "$(TARGET)/kernels/host"
	@echo "test-kernels: passed"

.PHONY: kernels
kernels: ## Compiles kernels/*.cu to the PTX beside them, and shows what changed
	@$(kernel-tools)
	@scripts/kernels "$(TARGET)/kernels/tools" write
	@git --no-pager diff --stat -- kernels

# PaddleServing's packages, each in an environment of its own.
.PHONY: paddle-clients
paddle-clients:
	@for version in 0.9.0 0.6.3; do \
	    scripts/venv "$(TARGET)/paddle-$$version" tests/clients/paddle/requirements.txt \
	        "tests/clients/paddle/paddle-serving-$$version.txt"; \
	done

# In recipes: pytest of the client tests, against the daemon of `cargo build`.
client-pytest = VISORD_BIN="$(TARGET)/debug/visord" "$(TARGET)/venv/bin/python" -m pytest tests/clients

.PHONY: client-venvs
client-venvs: preflight paddle-clients
	@scripts/venv "$(TARGET)/venv" tests/clients/requirements.txt
	@scripts/venv "$(TARGET)/docker-tools" tests/clients/docker-requirements.txt

.PHONY: client-tools
client-tools: client-venvs
	@# As the Rust tests have it already: `cargo build` alone would compile it, and what it needs, once more.
	@echo "==> the daemon, as the Rust tests build it"
	@cargo test --locked --no-run --test integration

.PHONY: test-clients
test-clients: client-tools ## Real clients against the running daemon (PYTEST="-k paddle")
	@echo "==> pytest tests/clients"
	@$(openvino); $(client-pytest) -m "not toolchain" $(PYTEST)
	@echo "test-clients: passed"

.PHONY: test-languages
test-languages: client-tools ## Clients in C++, Java and Node, and Prometheus, as far as they are installed
	@echo "==> pytest tests/clients, those that need other toolchains"
	@$(openvino); $(client-pytest) -m toolchain -v
	@echo "test-languages: passed, but for what is NOT TESTED above"

.PHONY: differential
differential: client-tools ## The real Triton and visord, sent the same requests (ARGS=--record)
	@scripts/venv "$(TARGET)/triton" tests/triton/requirements.txt
	@$(openvino); VISORD_BIN="$(TARGET)/debug/visord" "$(TARGET)/venv/bin/python" tests/clients/differential.py \
	    --start "$(TARGET)/triton" $(ARGS)

.PHONY: golden
golden: ## Writes tests/golden again with OpenCV and ONNX Runtime, and shows what changed
	@scripts/venv "$(TARGET)/golden" tests/golden/requirements.txt
	@for script in tests/golden/make*.py; do \
	    echo "==> $$script"; "$(TARGET)/golden/bin/python" "$$script"; \
	done
	@git --no-pager diff --stat -- tests/golden

.PHONY: bench
bench: build ## Load runs of visord bench, beside other servers (ARGS="--peer NAME=URL=BODY")
	@$(openvino); scripts/bench-peers --visord "$(TARGET)/release/visord" $(ARGS)

PROFILE ?= release

.PHONY: gpu-bundle
gpu-bundle: preflight ## Packs daemon, bench and fixtures for a GPU host (PROFILE=dev: quickly)
	@scripts/gpu-bundle --profile "$(PROFILE)" "$(TARGET)/gpu-bundle"

.PHONY: gpu-bundle-rtx
gpu-bundle-rtx: ## Packs TensorRT-RTX's libraries for the same host (57 MiB, some minutes)
	@scripts/gpu-bundle --tensorrt-rtx "$(TARGET)/gpu-bundle-rtx"
