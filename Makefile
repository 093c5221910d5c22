# Everything from a bare checkout: `make demo` shows the main job, `make test` runs the quick tests, `make test-all` all.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# For tests only: there are pre-releases alone, for x86-64 Linux, and old ones are taken down
TFLITE_MICRO := tflite-micro==0.dev20261023182759

# A file's tests share what they export, so they stay in one process
TEST := -n auto --dist loadfile

.PHONY: setup demo test test-slow test-all test-pi check wheel tflite-runtime docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "EdgeExit needs Python 3.10 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --pre '$(TFLITE_MICRO)' \
		|| echo "NOTE: no $(TFLITE_MICRO) for this machine (or it was taken down); tests on TFLite Micro will be skipped" >&2
	@touch $@

demo: setup  ## train, export, calibrate and sweep a three-exit network on real handwritten digits
	$(BIN)/edgeexit demo --out demo-out

test: setup  ## the quick tests, on all cores
	$(BIN)/python -m pytest -q $(TEST)

test-slow: setup  ## the tests that `make test` leaves out
	$(BIN)/python -m pytest -q $(TEST) -m slow

test-all: test test-slow  ## all tests

test-pi: setup  ## a shipped bundle in an arm64 user space under emulation, as on Pi 3, 4 and 5; skips without the tools
	$(BIN)/python scripts/test_pi.py $(PI)

check: setup  ## lint, format, types, import contracts, generated files
	BIN=$(BIN) scripts/check

wheel: setup  ## build the wheel and test the device side from it in an empty environment
	PYTHON=$(PYTHON) BIN=$(BIN) scripts/wheel

tflite-runtime: setup  ## test TFLite bundles on the older interpreter, in an environment of its own
	PYTHON=$(PYTHON) BIN=$(BIN) scripts/tflite_runtime

docs: setup  ## rewrite the generated pages
	$(BIN)/python scripts/cli_docs.py --write
	$(BIN)/python scripts/format_docs.py --write

clean:
	rm -rf $(VENV) demo-out dist build
